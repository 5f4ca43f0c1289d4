"""Which descriptions are true of which scenes, decided on words, for many pairs at once."""

from __future__ import annotations

import itertools

import numpy as np

from mvgrpo_jax.nano.world.scene import BACKGROUNDS, COLORS, MAX_THINGS, PLACES, SHAPES, SIZES, Scene, Thing

_OPEN = -1
VALUES = {"shape": SHAPES, "color": tuple(COLORS), "size": SIZES, "place": PLACES}
_ORDERS = np.asarray(list(itertools.permutations(range(MAX_THINGS))))


def _codes(scenes: list[Scene], absent: int) -> tuple[np.ndarray, np.ndarray]:
    """things: int [N, MAX_THINGS, 5] (existence, then the four attributes); rest: int [N, 2] (background, count)."""
    things = np.full((len(scenes), MAX_THINGS, 5), absent)
    rest = np.full((len(scenes), 2), _OPEN)
    for n, scene in enumerate(scenes):
        for i, thing in enumerate(scene.things[:MAX_THINGS]):
            values = [getattr(thing, k) for k in VALUES]
            things[n, i] = [0, *(_OPEN if v is None else VALUES[k].index(v) for k, v in zip(VALUES, values))]
        if scene.background is not None:
            rest[n, 0] = list(BACKGROUNDS).index(scene.background)
        if (count := scene.implied_count()) is not None:
            rest[n, 1] = count
    return things, rest


def holds(scenes: list[Scene], descriptions: list[Scene]) -> np.ndarray:
    """bool [len(scenes), len(descriptions)]: whether each description is true of each complete scene.

    Every stated thing must be matched by a different thing of the scene, and there must be no others.
    """
    have, have_rest = _codes(scenes, absent=-2)
    want, want_rest = _codes(descriptions, absent=_OPEN)
    orders = have[:, _ORDERS]  # [scenes, orders, things, 5]
    equal = (orders[:, None] == want[None, :, None]) | (want[None, :, None] == _OPEN)
    rest = (have_rest[:, None] == want_rest[None]) | (want_rest[None] == _OPEN)
    return equal.all((-1, -2)).any(-1) & rest.all(-1)


def alter(description: Scene, rng: np.random.Generator) -> Scene:
    """The description with one stated attribute replaced by another value."""
    places = [(i, name) for i, t in enumerate(description.things) for name in t.stated()]
    places += [(None, "background")] * (description.background is not None)
    places += [(None, "count")] * (description.count is not None)
    if not places:
        return description
    index, name = places[rng.integers(len(places))]
    if index is None:
        choices = list(BACKGROUNDS) if name == "background" else list(range(1, MAX_THINGS + 1))
        choices.remove(getattr(description, name))
        return _replace(description, name, choices[rng.integers(len(choices))])
    thing = description.things[index]
    choices = [v for v in VALUES[name] if v != getattr(thing, name)]
    changed = _replace(thing, name, choices[rng.integers(len(choices))])
    return _replace(description, "things", (*description.things[:index], changed, *description.things[index + 1 :]))


def _replace(item: Scene | Thing, name: str, value):
    return type(item)(**{**item.__dict__, name: value})
