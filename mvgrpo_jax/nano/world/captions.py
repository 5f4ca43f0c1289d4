"""Words for scenes and back: short prompts, long captions, perspectives, synonyms, and the grammar that reads them."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from mvgrpo_jax.nano.world.scene import BACKGROUNDS, COLORS, MAX_THINGS, PLACES, SHAPES, SIZES, Scene, Thing

SYNONYMS = {
    "circle": ("disc", "ball"),
    "square": ("box",),
    "triangle": ("wedge",),
    "diamond": ("rhombus",),
    "cross": ("plus",),
    "shape": ("object",),
    "shapes": ("objects",),
    "small": ("little", "tiny"),
    "large": ("big",),
    "center": ("middle",),
    "background": ("backdrop",),
}
_PLAIN = {alias: word for word, aliases in SYNONYMS.items() for alias in aliases}
_NUMBERS = {"one": 1, "two": 2, "three": 3}
_NUMBER_WORDS = {n: w for w, n in _NUMBERS.items()}


def _phrase(thing: Thing) -> str:
    words = [thing.size, thing.color, thing.shape or "shape"]
    words = [w for w in words if w]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words, *([thing.place] if thing.place else [])])


def write(scene: Scene) -> str:
    """The plain sentence for a description, e.g. 'a small red circle top-left and a square, blue background'."""
    phrases = [_phrase(t) for t in scene.things]
    if scene.count is not None:
        noun = "shape" if scene.count == 1 else "shapes"
        total = f"{_NUMBER_WORDS.get(scene.count, str(scene.count))} {noun}"
        phrases = [total] if not phrases else [f"{total}: {phrases[0]}", *phrases[1:]]
    text = " and ".join(phrases) if len(phrases) < 3 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    if scene.background is not None:
        article = "an" if scene.background[0] in "aeiou" else "a"
        text = f"{text} on {article} {scene.background} background" if text else f"{article} {scene.background} background"
    return text


def reword(text: str, rng: np.random.Generator, chance: float = 0.5) -> str:
    """Replaces words by synonyms, each with probability `chance`; the meaning stays."""

    def swap(match: re.Match) -> str:
        aliases = SYNONYMS.get(match.group(0), ())
        return str(rng.choice(aliases)) if aliases and rng.random() < chance else match.group(0)

    return re.sub(r"[a-z]+(?:-[a-z]+)*", swap, text)


def read(text: str) -> Scene:
    """Reads a caption back into a description; words outside the grammar are passed over."""
    things: list[Thing] = []
    background = count = None
    pending: dict[str, str] = {}
    number: int | None = None
    for word in re.findall(r"[a-z]+(?:-[a-z]+)*|[0-9]+", text.lower()):
        word = _PLAIN.get(word, word)
        if word in _NUMBERS or (word.isdigit() and 1 <= int(word) <= 9):
            number = _NUMBERS.get(word) or int(word)
        elif word in SIZES:
            pending["size"] = word
        elif word in BACKGROUNDS:
            pending["color"] = word
        elif word == "background":
            background, pending = pending.get("color", background), {}
        elif word in SHAPES or word in ("shape", "shapes"):
            if number is not None and word in ("shape", "shapes"):
                count, number = number, None
            else:
                if pending.get("color") not in COLORS:
                    pending.pop("color", None)
                things.append(Thing(shape=word if word in SHAPES else None, **pending))
            pending = {}
        elif word in PLACES and things:
            things[-1] = dataclasses.replace(things[-1], place=word)
    return Scene(tuple(things), background, count)


def complete(scene: Scene) -> str:
    """The long caption, which leaves nothing about things and background open."""
    return write(dataclasses.replace(scene, count=None))


def leave_open(scene: Scene, rng: np.random.Generator, keep: dict[str, float], background: float) -> Scene:
    """Drops attributes: each is kept with its probability in `keep`; the background with probability `background`."""
    things = []
    for thing in scene.things:
        kept = {k: v for k, v in thing.stated().items() if rng.random() < keep[k]}
        if kept:
            things.append(Thing(**kept))
    things = things or [Thing(shape=scene.things[0].shape)]
    return Scene(tuple(things), scene.background if rng.random() < background else None)


def prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A short prompt as people write them: what and which colour, seldom where and how large."""
    keep = {"shape": 1.0, "color": 0.85, "size": 0.25, "place": 0.3}
    return write(leave_open(scene, rng, keep, background=0.4))


# Each perspective keeps one kind of attribute of everything that is seen.
PERSPECTIVES = {
    "overall": ("shape", "color", "size", "place", "background"),
    "subject": ("shape", "color"),
    "color": ("color", "background"),
    "shape": ("shape",),
    "size": ("size", "shape"),
    "position": ("place", "shape"),
    "layout": ("place", "color"),
    "count": ("count",),
    "background": ("background",),
    "setting": ("count", "background"),
}


def describe(scene: Scene, perspective: str) -> str:
    """The caption of a complete scene from one perspective of PERSPECTIVES."""
    if perspective not in PERSPECTIVES:
        raise ValueError(f"unknown perspective {perspective!r}; there are: {', '.join(PERSPECTIVES)}")
    kept = PERSPECTIVES[perspective]
    things = [Thing(**{k: v for k, v in t.stated().items() if k in kept}) for t in scene.things]
    return write(
        Scene(
            tuple(t for t in things if t.stated()),
            scene.background if "background" in kept else None,
            min(len(scene.things), MAX_THINGS) if "count" in kept else None,
        )
    )


def training_description(scene: Scene, rng: np.random.Generator) -> Scene:
    """A description of random style for pretraining: complete, a prompt or a perspective."""
    style = rng.random()
    if style < 0.4:
        return dataclasses.replace(scene, count=None)
    if style < 0.75:
        return read(prompt(scene, rng))
    return read(describe(scene, str(rng.choice(list(PERSPECTIVES)))))


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """The text of a training description, three times in ten in other words."""
    text = write(training_description(scene, rng))
    return reword(text, rng) if rng.random() < 0.3 else text
