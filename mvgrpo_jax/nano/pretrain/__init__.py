"""Makes the embedded pipeline: `python -m mvgrpo_jax.nano.pretrain --out DIR`."""
