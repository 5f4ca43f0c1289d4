"""What pictures look like in a few numbers: brightness, saturation, and the picture in 32 x 32."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from PIL import Image

SIDE = 32


def measured(image: np.ndarray, finite: bool = True) -> dict[str, Any]:
    """Of a picture uint8 [H, W, 3], as JSON has it: 'brightness', the mean of Rec. 709's luma, and 'saturation', the mean of
    HSV's, both in [0, 1]; 'small', its pixels brought to 32 x 32 by areas; 'finite', False where the pipeline gave numbers
    that are none."""
    unit = image.astype(np.float64) / 255
    high, low = unit.max(-1), unit.min(-1)
    saturation = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)
    return {
        "brightness": float((unit @ [0.2126, 0.7152, 0.0722]).mean()),
        "saturation": float(saturation.mean()),
        "small": base64.b64encode(small.tobytes()).decode(),
        "finite": bool(finite),
    }


def small(record: dict[str, Any]) -> np.ndarray:
    """uint8 [32, 32, 3] of a record."""
    return np.frombuffer(base64.b64decode(record["small"]), np.uint8).reshape(SIDE, SIDE, 3)
