"""CLIPImageProcessor's way from a picture to a tower's input: resized, centre-cropped, normalised."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.errors import UserError

CUBIC = 3  # Pillow's number of bicubic resampling


def as_float(images):
    """Pictures of uint8 as float32 in [0, 1], of numpy's or JAX's kind; others as they are."""
    xp = np if isinstance(images, np.ndarray) else jnp
    return images.astype(xp.float32) / 255.0 if images.dtype == xp.uint8 else images


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Pictures in [0, 1] rounded to uint8; those of uint8 as they are."""
    return images if images.dtype == np.uint8 else np.rint(np.clip(images, 0.0, 1.0) * 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """side: of the tower's input, to which the shorter side of a picture is resized, in pixels. mean, std: of the channels."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, config: dict, side: int, source: str = "preprocessor_config.json") -> Preprocess:
        """From the content of a preprocessor_config.json for a tower of this image size. UserError: it asks for something
        else than the shorter side resized by bicubic interpolation, the centre cropped, and the channels normalised."""
        size = config.get("size", {"shortest_edge": side})
        shortest = size.get("shortest_edge") if isinstance(size, dict) else size
        crop = config.get("crop_size", side)
        crop = crop if isinstance(crop, dict) else {"height": crop, "width": crop}
        if shortest != side or crop != {"height": side, "width": side}:
            raise UserError(
                f"{source}: expected size with shortest_edge {side} and crop_size of {side} x {side}, the tower's image_size; "
                f"found size {size} and crop_size {config.get('crop_size')}"
            )
        for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
            if config.get(key, True) is not True:
                raise UserError(f"{source}: {key} must be true, found {config[key]!r}")
        if config.get("resample", CUBIC) != CUBIC:
            raise UserError(f"{source}: resample must be {CUBIC} (bicubic), found {config['resample']!r}")
        for key in ("image_mean", "image_std"):
            if len(config.get(key) or ()) != 3:
                raise UserError(f"{source}: expected three numbers under {key}, found {config.get(key)!r}")
        return cls(side, tuple(config["image_mean"]), tuple(config["image_std"]))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The size to which a picture is resized before the crop: the shorter side is `side`, the longer one is cut to whole
        pixels, not rounded."""
        short, long = sorted((height, width))
        longer = int(self.side * long / short)
        return (self.side, longer) if height <= width else (longer, self.side)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, H, W, 3] in [0, 1] -> [N, side, side, 3], normalised. Pillow's order: first along the width, then along the
        height, each cut to [0, 1]. Pillow rounds to 8 bits as well each time, which is left out here."""
        n, height, width, channels = images.shape
        high, wide = self.resized(height, width)
        for shape in ((n, height, wide, channels), (n, high, wide, channels)):
            if images.shape != shape:
                images = jnp.clip(jax.image.resize(images, shape, "cubic", antialias=True), 0.0, 1.0)
        top, left = (high - self.side) // 2, (wide - self.side) // 2
        images = images[:, top : top + self.side, left : left + self.side]
        return (images - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
