"""The protocol of judges behind a server of one's own (kinds/http_.py asks, rewards/serve.py answers).

    POST /score     {"judge": "clip", "images": [base64 of a PNG, JPEG, ...], "captions": [["a cat", null], ...]}
    200             {"judge": "clip", "scores": [[0.31, null], ...]}

A list of captions for each picture, all of one length; null where a text is missing. A list of scores for each picture, in the
captions' order; null where there is no score. "judge" may be left out where a server has one. Or as a form
(multipart/form-data): the files "images", in the order of "captions", a field with the JSON of above, and "judge".

A request that cannot be answered gets 4xx and {"error": {"message": "..."}}; 401 without the right token (Authorization: Bearer
...), 404 where there is no such judge, 413 where it is too large. 429 and 503, with Retry-After, are asked again. GET /health
says which judges there are.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from typing import Any

import numpy as np
from PIL import Image

from mvgrpo_jax.errors import UserError

Captions = list[list[str | None]]


def encode(image: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] without loss, as base64 of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: Any) -> bytes:
    """The file that base64 holds. UserError where it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise UserError("a picture is no base64 text; expected that of a PNG or JPEG file") from None


def request(images: list[str], captions: Captions, judge: str = "") -> dict[str, Any]:
    return {"images": images, "captions": captions} | ({"judge": judge} if judge else {})


def read_captions(value: Any, pictures: int) -> Captions:
    """UserError unless there is a list of texts for each picture, all of one length, at least 1."""
    good = isinstance(value, list) and all(isinstance(row, list) for row in value) and len({len(row) for row in value}) == 1
    if not good or not value[0] or not all(text is None or isinstance(text, str) for row in value for text in row):
        raise UserError('"captions" must be a list of lists of texts (or null), one for each picture, all of one length')
    if len(value) != pictures:
        raise UserError(f"there are {pictures} pictures and captions for {len(value)}; expected a list of captions for each")
    return value


def read_scores(value: Any, pictures: int, views: int) -> list[list[float | None]]:
    """[pictures][views] of an answer; None where a score is null or not finite. ValueError with a few words, for counting,
    where it is no such answer."""
    rows = value.get("scores") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("no scores")
    if len(rows) != pictures or any(len(row) != views for row in rows):
        raise ValueError("wrong number of scores")
    numbers = [score for row in rows for score in row if score is not None]
    if not all(type(score) in (int, float) for score in numbers):
        raise ValueError("a score that is no number")
    return [[float(s) if s is not None and math.isfinite(s) else None for s in row] for row in rows]


def answer(judge: str, scores: np.ndarray) -> str:
    """JSON of scores [N, V]; null where they are not finite."""
    rows = [[float(s) if np.isfinite(s) else None for s in row] for row in scores]
    return json.dumps({"judge": judge, "scores": rows}, allow_nan=False)
