"""Who rewrites the embedded world's prompts: its grammar, with the three operations that language models are asked for."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvgrpo_jax.nano.world import captions as words
from mvgrpo_jax.nano.world.scene import BACKGROUNDS, COLORS, PLACES, SIZES, Scene, Thing


class WorldRewriter:
    """The three operations on the embedded world's grammar."""

    async def rewrite(self, prompt: str, operation: str, memory: list[str], rng: np.random.Generator) -> str | None:
        scene = words.read(prompt)
        if not scene.stated():
            return None
        if operation == "addition":
            changed = self._add(scene, rng)
        elif operation == "deletion":
            changed = self._delete(scene, rng)
        else:
            order = rng.permutation(len(scene.things))
            changed = dataclasses.replace(scene, things=tuple(scene.things[i] for i in order))
            return words.reword(words.write(changed), rng, 0.7)
        return None if changed is None else words.write(changed)

    def _add(self, scene: Scene, rng) -> Scene | None:
        """States one or two attributes that the prompt leaves open, consistently with what it says."""
        before = scene
        for _ in range(int(rng.integers(1, 3))):
            open_slots = [
                (i, k) for i, t in enumerate(scene.things) for k in ("color", "size", "place") if getattr(t, k) is None
            ]
            open_slots += [(None, "background")] * (scene.background is None)
            if not open_slots:
                break
            index, name = open_slots[rng.integers(len(open_slots))]
            used_colors = {t.color for t in scene.things} | {scene.background}
            if index is None:
                value = str(rng.choice([b for b in BACKGROUNDS if b not in used_colors]))
                scene = dataclasses.replace(scene, background=value)
                continue
            taken = {t.place for t in scene.things}
            choices = {
                "color": [c for c in COLORS if c not in used_colors],
                "size": list(SIZES),
                "place": [p for p in PLACES if p not in taken],
            }[name]
            thing = dataclasses.replace(scene.things[index], **{name: str(rng.choice(choices))})
            scene = dataclasses.replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))
        return None if scene == before else scene

    def _delete(self, scene: Scene, rng) -> Scene | None:
        """Drops one or two attributes, keeping at least one."""
        for _ in range(int(rng.integers(1, 3))):
            if scene.stated() <= 1:
                return None
            slots = [(i, k) for i, t in enumerate(scene.things) for k in t.stated()]
            slots += [(None, "background")] * (scene.background is not None)
            slots += [(None, "count")] * (scene.count is not None)
            index, name = slots[rng.integers(len(slots))]
            if index is None:
                scene = dataclasses.replace(scene, **{name: None})
                continue
            left = {k: v for k, v in scene.things[index].stated().items() if k != name}
            thing = (Thing(**left),) if left else ()
            scene = dataclasses.replace(scene, things=(*scene.things[:index], *thing, *scene.things[index + 1 :]))
        return scene
