"""Multi-View GRPO and its family for flow models. Importing it settles what libraries print at their start."""

from mvgrpo_jax.console.quiet import quieten

quieten()
