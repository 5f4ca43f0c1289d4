"""The exact judge: how well a picture shows what a caption states, in [0, 1].

Every stated attribute gets a grade in [0, 1]; the score is their mean. A thing that is not there scores 0 on all of its
attributes; things in the caption are matched to regions of the picture so that the total is largest. Captions of this world
name every thing that there is, so the number of things named is graded as a stated count is. Without that a policy learns to
paint many things, of which one fits: it was seen to.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from mvgrpo_jax.nano.world import render, vision
from mvgrpo_jax.nano.world.scene import BACKGROUNDS, SHAPES, Scene, Thing

COLOR_SCALE = 0.25  # RGB distance at which a colour's grade has fallen to 1/e


def color_grade(color: np.ndarray, stated: str) -> float:
    distance = np.sqrt(((color - np.asarray(BACKGROUNDS[stated])) ** 2).sum())
    return float(np.exp(-((distance / COLOR_SCALE) ** 2)))


def shape_grade(fit: dict[str, float], stated: str) -> float:
    """Half for a tie with the best other shape, full for a lead of 0.08; less when even the stated shape fits badly."""
    lead = fit[stated] - max(fit[s] for s in SHAPES if s != stated)
    return float(np.clip(0.5 + lead / 0.16, 0.0, 1.0) * np.clip((fit[stated] - 0.4) / 0.4, 0.0, 1.0))


def size_grade(radius: float, stated: str) -> float:
    """1 at the stated size or beyond it, 0 at the other size, linear in log radius between."""
    small, large = np.log(render.RADIUS["small"]), np.log(render.RADIUS["large"])
    position = np.clip((np.log(radius) - small) / (large - small), 0.0, 1.0)
    return float(position if stated == "large" else 1.0 - position)


def place_grade(row: float, column: float, stated: str) -> float:
    """1 within 2 pixels of the stated place, 0 from 8 on."""
    distance = np.hypot(*np.subtract((row, column), render.center_of(stated)))
    return float(np.clip((8.0 - distance) / 6.0, 0.0, 1.0))


def thing_grades(component: vision.Component, thing: Thing) -> dict[str, float]:
    """The grade of each attribute that `thing` states, for one region."""
    grades = {}
    if thing.shape:
        grades["shape"] = shape_grade(component.fit, thing.shape)
    if thing.color:
        grades["color"] = color_grade(component.color, thing.color)
    if thing.size:
        grades["size"] = size_grade(component.radius(thing.shape or component.shape), thing.size)
    if thing.place:
        grades["place"] = place_grade(component.row, component.column, thing.place)
    return grades


def score_reading(reading: vision.Reading, scene: Scene) -> tuple[float, dict[str, list[float]]]:
    """Score of a picture already read, and the grades by attribute. A description that states nothing scores 0."""
    things = [t if t.stated() else None for t in scene.things]
    things = [t for t in things if t]
    grades: dict[str, list[float]] = {}
    table = [[thing_grades(c, t) for c in reading.components] for t in things]
    value = np.asarray([[sum(g.values()) for g in row] for row in table]).reshape(len(things), len(reading.components))
    match = dict(zip(*linear_sum_assignment(-value))) if value.size else {}
    for i, thing in enumerate(things):
        for name in thing.stated():
            grades.setdefault(name, []).append(table[i][match[i]][name] if i in match else 0.0)
    if scene.background is not None:
        grades["background"] = [color_grade(reading.background, scene.background) * reading.clear]
    if (count := scene.implied_count()) is not None:
        found = len(reading.components)
        grades["count"] = [max(0.0, 1.0 - abs(found - count) / 2) if found else 0.0]
    flat = [g for group in grades.values() for g in group]
    return (float(np.mean(flat)) if flat else 0.0), grades


def score(image: np.ndarray, scene: Scene) -> float:
    """Score of a picture, float [SIDE, SIDE, 3] in [0, 1], under a description, in [0, 1]."""
    return score_reading(vision.look(image), scene)[0]
