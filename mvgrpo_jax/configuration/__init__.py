"""Configs: files, the command line's overrides, and the checks that both pass before anything runs."""

from mvgrpo_jax.configuration.arguments import from_arguments, keys, load

__all__ = ["from_arguments", "keys", "load"]
