"""Weights in from diffusers and transformers folders, and back."""

from mvgrpo_jax.convert.weights import export_params, import_params

__all__ = ["export_params", "import_params"]
