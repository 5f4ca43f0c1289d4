"""Scenes: one to three things on a background, every attribute a word.

The same type serves for a complete scene (nothing open) and for a description that leaves attributes open (None).
"""

from __future__ import annotations

import dataclasses

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "cross")
SIZES = ("small", "large")
PLACES = (
    "top-left",
    "top",
    "top-right",
    "left",
    "center",
    "right",
    "bottom-left",
    "bottom",
    "bottom-right",
)
COLORS = {
    "red": (0.86, 0.14, 0.14),
    "green": (0.13, 0.60, 0.23),
    "blue": (0.15, 0.30, 0.88),
    "yellow": (0.97, 0.86, 0.18),
    "purple": (0.52, 0.18, 0.66),
    "orange": (0.96, 0.52, 0.10),
    "cyan": (0.22, 0.80, 0.86),
    "pink": (0.97, 0.55, 0.74),
}
BACKGROUNDS = COLORS | {
    "white": (0.96, 0.96, 0.96),
    "gray": (0.50, 0.50, 0.50),
    "black": (0.06, 0.06, 0.06),
}
MAX_THINGS = 3

# Never drawn while pretraining or named in a training prompt: every colour and every shape is known, these pairs are not.
HELD_OUT = frozenset(
    {
        ("red", "triangle"),
        ("green", "cross"),
        ("blue", "diamond"),
        ("yellow", "circle"),
        ("purple", "square"),
        ("orange", "diamond"),
        ("cyan", "triangle"),
        ("pink", "circle"),
    }
)


@dataclasses.dataclass(frozen=True)
class Thing:
    """One coloured shape; None leaves an attribute open."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    place: str | None = None

    def stated(self) -> dict[str, str]:
        """The attributes that are not open, in a fixed order."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things on a background. `count` states how many things there are in all; None leaves that open."""

    things: tuple[Thing, ...] = ()
    background: str | None = None
    count: int | None = None

    def stated(self) -> int:
        """How many attributes the description states."""
        return sum(len(t.stated()) for t in self.things) + (self.background is not None) + (self.count is not None)

    def implied_count(self) -> int | None:
        """How many things there are by this description: captions of this world name every thing that there is."""
        return self.count if self.count is not None else len(self.things) or None

    def is_held_out(self) -> bool:
        return any((t.color, t.shape) in HELD_OUT for t in self.things)


def sample(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """Draws a complete scene. Colours differ within a scene, so that a picture can be read without ambiguity.

    With held_out=False no thing is a held-out pair; with held_out=True the first thing is one.
    """
    n = int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
    places = rng.choice(len(PLACES), n, replace=False)
    forced = sorted(HELD_OUT)[rng.integers(len(HELD_OUT))] if held_out else None
    names = [c for c in COLORS if not forced or c != forced[0]]
    colors = [names[i] for i in rng.permutation(len(names))[:n]]
    things = []
    for i in range(n):
        if forced and i == 0:
            color, shape = forced
        else:
            color = colors[i]
            shape = str(rng.choice([s for s in SHAPES if (color, s) not in HELD_OUT]))
        things.append(Thing(shape, color, str(rng.choice(SIZES)), PLACES[places[i]]))
    free = [b for b in BACKGROUNDS if b not in {t.color for t in things}]
    return Scene(tuple(things), str(rng.choice(free)), n)
