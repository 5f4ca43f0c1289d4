"""Makes the embedded pipeline: `python -m mvgrpo_jax.pretrain --out DIR`."""
