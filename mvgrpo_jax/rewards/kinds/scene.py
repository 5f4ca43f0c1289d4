"""The exact judge of the embedded world."""

from mvgrpo_jax.nano.judge import SceneReward

JUDGE = SceneReward
