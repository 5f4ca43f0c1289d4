"""Flux's networks in Flax NNX, modules named as diffusers and transformers name theirs.

NNX is used for construction only: `nnx.split` gives a graph definition and a nested dict of arrays, and everything
after that (jit, grad, scan, optax, checkpoints) sees plain pytrees. See `models.module.Network`.
"""
