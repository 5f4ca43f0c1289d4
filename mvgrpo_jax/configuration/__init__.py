"""Configs: files, the command line's overrides, and the checks that both pass before anything runs."""

from mvgrpo_jax.configuration.arguments import check_arguments, from_arguments, keys, load

__all__ = ["check_arguments", "from_arguments", "keys", "load"]
