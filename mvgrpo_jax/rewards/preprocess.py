"""The way from a picture to the input of a tower of CLIP's kind: resized as Pillow does, cropped or not, normalised."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.pixels import pil_resize

CUBIC = 3  # Pillow's number of bicubic resampling
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's channels


def as_float(images):
    """Pictures of uint8 as float32 in [0, 1], of numpy's or JAX's kind; others as they are."""
    xp = np if isinstance(images, np.ndarray) else jnp
    return images.astype(xp.float32) / 255.0 if images.dtype == xp.uint8 else images


def normalised(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Pictures in [0, 1] with zero mean and unit deviation of their channels; float32."""
    return (images - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Pictures in [0, 1] rounded to uint8; those of uint8 as they are."""
    return images if images.dtype == np.uint8 else np.rint(np.clip(images, 0.0, 1.0) * 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """side: of the tower's input, in pixels. mean, std: of the channels. squash: whether a picture is resized to side x side
    whatever its shape, rather than its shorter side to `side` and the centre cropped. rounded: whether the crop begins at the
    rounded half of what is left out, as in torchvision (half a pixel to the even side), or at the whole part of it, as in
    transformers."""

    side: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    squash: bool = False
    rounded: bool = False

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
        return cls(side, *(_three(config, key, source) for key in ("image_mean", "image_std")))

    @classmethod
    def open_clip(cls, config: dict, side: int, source: str = "open_clip_config.json") -> Preprocess:
        """From the preprocess_cfg of an open_clip_config.json, in which what equals open_clip's defaults may be left out.
        UserError where it asks for another size than the tower's, another interpolation or another way of resizing."""
        size = config.get("size") or side
        if size not in (side, [side, side], [3, side, side]):
            raise UserError(f"{source}: expected size {side}, the tower's image_size, found {size}")
        if (found := config.get("interpolation") or "bicubic") not in ("bicubic", "random"):  # random is for training
            raise UserError(f"{source}: interpolation must be bicubic, found {found!r}")
        if (mode := config.get("resize_mode") or "shortest") not in ("shortest", "squash"):
            raise UserError(f"{source}: resize_mode must be shortest or squash, found {mode!r}")
        given = {"mean": MEAN, "std": STD} | {k: v for k, v in config.items() if v}
        return cls(side, *(_three(given, key, source) for key in ("mean", "std")), squash=mode == "squash", rounded=True)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The size to which a picture is resized before the crop: the shorter side is `side`, the longer one is cut to whole
        pixels, not rounded."""
        if self.squash:
            return self.side, self.side
        short, long = sorted((height, width))
        longer = int(self.side * long / short)
        return (self.side, longer) if height <= width else (longer, self.side)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[N, H, W, 3], uint8 or in [0, 1] and then rounded to 8 bits, -> float32 [N, side, side, 3], normalised; the pixels
        before that are Pillow's, bit for bit."""
        high, wide = self.resized(*images.shape[1:3])
        top, left = self.cropped(high), self.cropped(wide)
        images = pil_resize(images, high, wide)[:, top : top + self.side, left : left + self.side]
        return normalised(as_float(images), self.mean, self.std)

    def cropped(self, length: int) -> int:
        """The pixels that are left out before the centre of a side."""
        left_out = length - self.side
        return round(left_out / 2) if self.rounded else left_out // 2


def _three(config: dict, key: str, source: str) -> tuple[float, ...]:
    if len(config.get(key) or ()) != 3:
        raise UserError(f"{source}: expected three numbers under {key}, found {config.get(key)!r}")
    return tuple(config[key])
