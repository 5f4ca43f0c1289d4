"""A procedural world of captioned scenes with exact semantics.

It stands in for photographs, prompts and human judgement where no model hub can be reached: scenes are drawn
(`render`), described (`captions`), read back from pixels (`vision`) and judged attribute by attribute (`score`).
"""

from mvgrpo_jax.nano.world.scene import Scene, Thing

__all__ = ["Scene", "Thing"]
