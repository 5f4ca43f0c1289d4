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


Grades = dict[tuple, float]  # (region, attribute, what is stated of it) -> grade


def thing_grades(component: vision.Component, thing: Thing, known: Grades, number: int = 0) -> dict[str, float]:
    """The grade of each attribute that `thing` states, for one region. known: of the region of this number, grades that were
    given before; more are added."""
    grades = {}
    for name, stated in thing.stated().items():
        shape = (thing.shape or component.shape) if name == "size" else None
        key = number, name, stated, shape
        if key not in known:
            known[key] = _grade(component, name, stated, shape)
        grades[name] = known[key]
    return grades


def _grade(component: vision.Component, name: str, stated: str, shape: str | None) -> float:
    if name == "shape":
        return shape_grade(component.fit, stated)
    if name == "color":
        return color_grade(component.color, stated)
    if name == "size":
        return size_grade(component.radius(shape), stated)
    return place_grade(component.row, component.column, stated)


def score_reading(reading: vision.Reading, scene: Scene, known: Grades | None = None) -> tuple[float, dict[str, list[float]]]:
    """Score of a picture already read, and the grades by attribute. A description that states nothing scores 0. known: grades
    of this reading under other descriptions, which often state the same; more are added."""
    things, known = [t for t in scene.things if t.stated()], {} if known is None else known
    grades: dict[str, list[float]] = {}
    table = [[thing_grades(c, t, known, i) for i, c in enumerate(reading.components)] for t in things]
    value = [[sum(g.values()) for g in row] for row in table]
    if len(things) == 1 and value[0]:
        match = {0: value[0].index(max(value[0]))}
    else:
        found = np.asarray(value).reshape(len(things), len(reading.components))
        match = dict(zip(*linear_sum_assignment(-found))) if found.size else {}
    for i, thing in enumerate(things):
        for name in thing.stated():
            grades.setdefault(name, []).append(table[i][match[i]][name] if i in match else 0.0)
    if scene.background is not None:
        key = None, "background", scene.background
        if key not in known:
            known[key] = color_grade(reading.background, scene.background) * reading.clear
        grades["background"] = [known[key]]
    if (count := scene.implied_count()) is not None:
        found = len(reading.components)
        grades["count"] = [max(0.0, 1.0 - abs(found - count) / 2) if found else 0.0]
    flat = [g for group in grades.values() for g in group]
    return (sum(flat) / len(flat) if flat else 0.0), grades


def score(image: np.ndarray, scene: Scene) -> float:
    """Score of a picture, float [SIDE, SIDE, 3] in [0, 1], under a description, in [0, 1]."""
    return score_reading(vision.look(image), scene)[0]
