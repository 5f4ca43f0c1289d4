"""How pictures travel: encoded, in a URL that holds them."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
from PIL import Image

from mvgrpo_jax.errors import UserError

FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How pictures travel. size: pixels of the longer side at most; 0: as they are."""

    format: str = "jpeg"
    quality: int = 90
    size: int = 512

    def __post_init__(self):
        if self.format not in FORMATS:
            raise UserError(f"the format of pictures must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if not 1 <= self.quality <= 100 or self.size < 0:
            raise UserError(f"of pictures, quality is 1 to 100 and size not negative, got {self.quality}, {self.size}")

    def data_url(self, image: np.ndarray) -> str:
        """uint8 [H, W, 3] -> data:image/...;base64,..."""
        picture = Image.fromarray(image)
        scale = self.size / max(picture.size) if self.size else 1.0
        if scale < 1.0:
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        options = {} if self.format == "png" else {"quality": self.quality}
        picture.save(buffer, FORMATS[self.format], **options)
        return f"data:image/{self.format};base64,{base64.b64encode(buffer.getvalue()).decode()}"
