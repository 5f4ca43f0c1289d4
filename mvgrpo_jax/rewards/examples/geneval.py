"""Whether a picture has the objects that GenEval's metadata asks for (Ghosh et al., arXiv 2310.11513): judges of kind function.

`correct` is GenEval's verdict, 1 or 0; `share` is smoother, as rewards are in Flow-GRPO (arXiv 2505.05470): the share of what
is asked for that is there. Prompts come from GenEval's metadata file, whose fields say what to look for; of a prompt without
them there is no score. Objects are found by a detector of transformers, whose folder the environment variable DETECTOR names,
such as a download of facebook/detr-resnet-101, and colours by the CLIP model in the folder that COLORS names. They run on the
host with torch: pip install 'mvgrpo_jax[geneval]'.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mvgrpo_jax.errors import UserError

DETECTOR, COLORS = "MVGRPO_DETECTOR", "MVGRPO_COLORS"
CERTAIN, COUNTED = 0.3, 0.9  # confidence that an object needs; where objects are counted they need more
NAMED = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
APART = 0.1  # of both objects' sizes, which their centres must be apart before one is on a side of the other


class Found(NamedTuple):
    """An object in a picture. box: left, top, right, bottom, in pixels. color: of NAMED, or '' where none was asked for."""

    name: str
    box: tuple[float, float, float, float]
    confidence: float
    color: str = ""


def correct(images: np.ndarray, captions: list[list[str]], records: list[dict]) -> np.ndarray:
    """[N, V]: 1 where everything is there that the prompt's record asks for, and nothing that it excludes. The captions do not
    matter."""
    return _graded(images, captions, records, lambda met: float(all(value == 1.0 for value in met)))


def share(images: np.ndarray, captions: list[list[str]], records: list[dict]) -> np.ndarray:
    """[N, V] in [0, 1]: the mean over what is asked for."""
    return _graded(images, captions, records, lambda met: float(np.mean(met)))


def _graded(images, captions, records, merge: Callable[[list[float]], float]) -> np.ndarray:
    out = np.full((len(images), len(captions[0])), np.nan, np.float32)
    for i, (image, record) in enumerate(zip(images, records, strict=True)):
        if "include" in record:
            out[i] = merge(met(record, detect(image, record)))
    return out


def met(record: dict, found: list[Found]) -> list[float]:
    """How far each thing that is asked for is there, in [0, 1], and that nothing is that is excluded. A number of objects is
    met by 1 - |there - asked| / asked where exactly so many are asked for, which GenEval says by excluding one more."""
    counted = record.get("tag") == "counting"
    there = [f for f in found if f.confidence >= (COUNTED if counted else CERTAIN)]
    groups, out = [], []
    for item in record["include"]:
        of_class = [f for f in there if f.name == item["class"]]
        group = [f for f in of_class if f.color == item["color"]] if "color" in item else of_class
        asked = item["count"]
        value = max(0.0, 1.0 - abs(len(group) - asked) / asked) if counted else min(len(group) / asked, 1.0)
        if "position" in item:
            relation, other = item["position"]
            sides = [relation in sides_of(a.box, b.box) for a in group for b in groups[other]]
            value = min(value, float(any(sides)))
        out.append(value)
        groups.append(group)
    for item in record.get("exclude", []):
        out.append(float(sum(f.name == item["class"] for f in there) < item["count"]))
    return out


def sides_of(a: tuple, b: tuple) -> set[str]:
    """On which sides of box b box a is, in GenEval's words: 'left of', 'right of', 'above', 'below'."""
    boxes = np.asarray([a, b], float).reshape(2, 2, 2)  # [box, corner, axis]
    offset = boxes[0].mean(0) - boxes[1].mean(0)
    least = APART * np.abs(boxes[:, 1] - boxes[:, 0]).sum(0)
    beyond = np.maximum(np.abs(offset) - least, 0) * np.sign(offset)
    if (np.abs(beyond) < 1e-3).all():
        return set()
    x, y = beyond / np.linalg.norm(beyond)
    words = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {word for word, holds in words.items() if holds}


def detect(image: np.ndarray, record: dict) -> list[Found]:
    """The objects in a picture uint8 [H, W, 3]; colours of those whose colour the record asks for."""
    found = [Found(o["label"], tuple(o["box"].values()), o["score"]) for o in _detector()(_pil(image), threshold=CERTAIN)]
    colored = {item["class"] for item in record["include"] if "color" in item}
    return [f._replace(color=_color(image, f)) if f.name in colored else f for f in found]


def _color(image: np.ndarray, found: Found) -> str:
    left, top, right, bottom = (int(round(max(0.0, edge))) for edge in found.box)
    crop = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    names = {f"a photo of a {color} {found.name}": color for color in NAMED}
    return names[max(_classifier()(_pil(crop), candidate_labels=list(names)), key=lambda one: one["score"])["label"]]


def _pil(image: np.ndarray):
    from PIL import Image

    return Image.fromarray(image)


@functools.cache
def _detector() -> Any:
    return _pipeline("object-detection", DETECTOR, "an object detector of transformers, such as facebook/detr-resnet-101")


@functools.cache
def _classifier() -> Any:
    return _pipeline("zero-shot-image-classification", COLORS, "a CLIP model, such as openai/clip-vit-large-patch14")


def _pipeline(task: str, variable: str, what: str) -> Any:
    if not (folder := os.environ.get(variable)):
        raise UserError(f"the environment variable {variable} is not set; set it to the folder of {what}")
    try:
        import torch  # noqa: F401
        from transformers import pipeline
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; this judge needs pip install 'mvgrpo_jax[geneval]'") from None
    try:
        return pipeline(task, model=folder, device="cpu")
    except (OSError, ValueError) as error:
        raise UserError(f"{variable}={folder}: no {task} model there ({str(error).splitlines()[0]}); expected {what}") from None
