"""Preparation of pictures for CLIP against transformers' CLIPImageProcessor (on Pillow)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.letterbox import Letterbox
from mvgrpo_jax.rewards.preprocess import Preprocess

CONFIG = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


@pytest.mark.parametrize(
    "height, width, expected",
    [
        (768, 1024, 298),
        (1024, 768, 298),
        (768, 1360, 396),
        (480, 848, 395),
        (1024, 1024, 224),
        (224, 224, 224),
        (100, 333, 745),
    ],
)
def test_the_longer_side_is_cut_to_whole_pixels(height, width, expected):
    assert sorted(Preprocess.read(CONFIG, 224).resized(height, width)) == [224, expected]


def picture(height: int, width: int, kind: str) -> np.ndarray:
    """uint8 [H, W, 3]: smooth waves, or black and white points, whose cubic interpolation leaves the range."""
    if kind == "points":
        return np.random.default_rng(0).integers(0, 2, size=(height, width, 3), dtype=np.uint8) * 255
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 37.0 + y / 23.0), np.cos(x / 11.0), np.sin(y / 5.0)]
    return np.uint8(np.round(127.5 + 127.5 * np.stack(waves, -1)))


@pytest.mark.parametrize("kind", ["waves", "points"])
@pytest.mark.parametrize(
    "height, width", [(768, 1024), (1024, 768), (768, 1360), (480, 848), (512, 512), (224, 224), (97, 131), (224, 300)]
)
def test_pixels_are_clip_image_processors(height, width, kind):
    image = picture(height, width, kind)
    want = CLIPImageProcessorPil(**CONFIG)(Image.fromarray(image), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    prepare = jax.jit(Preprocess.read(CONFIG, 224))
    for given in (image[None], np.float32(image[None]) / 255):
        np.testing.assert_allclose(prepare(jnp.asarray(given))[0], want, atol=1e-6)


def test_configs_as_they_are_written():
    assert Preprocess.read(CONFIG | {"size": 224, "crop_size": 224, "resample": 3, "do_resize": True}, 224).side == 224
    bare = {k: CONFIG[k] for k in ("image_mean", "image_std")}
    assert Preprocess.read(bare, 24).side == 24


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"size": {"shortest_edge": 336}}, "expected size with shortest_edge 224 .* found size {'shortest_edge': 336}"),
        ({"size": {"height": 224, "width": 224}}, "expected size with shortest_edge 224"),
        ({"crop_size": 336}, "crop_size of 224 x 224.* crop_size 336"),
        ({"do_center_crop": False}, "do_center_crop must be true, found False"),
        ({"resample": 2}, r"resample must be 3 \(bicubic\), found 2"),
        ({"image_std": None}, "three numbers under image_std, found None"),
    ],
)
def test_other_preparations_are_refused(changes, expected):
    with pytest.raises(UserError, match=expected):
        Preprocess.read(CONFIG | changes, 224)


OPEN = {"mean": CONFIG["image_mean"], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}
SIZES = [(56, 56), (64, 48), (200, 31), (33, 77), (1, 1), (3, 50), (101, 97)]


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("side", [24, 31])
def test_pixels_are_open_clips(mode, side):
    from tests.rewards import open_clip_peer as oc

    prepare = jax.jit(Preprocess.open_clip(OPEN | {"resize_mode": mode, "size": [side, side]}, side))
    transform = oc.preparation(side, mean=OPEN["mean"], std=OPEN["std"], resize_mode=mode)
    for size in SIZES:
        image = picture(*size, "points")
        want = transform(Image.fromarray(image)).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(prepare(jnp.asarray(image[None]))[0], want, atol=1e-6, err_msg=str(size))


@pytest.mark.parametrize("side", [24, 31])
def test_hpsv2s_pixels_are_torchs(side):
    from tests.rewards.judges import letterboxed

    for size in [*SIZES, (side, side)]:
        image = picture(*size, "points")
        want = letterboxed(Image.fromarray(image), side).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(jax.jit(Letterbox(side))(jnp.asarray(image[None]))[0], want, atol=1e-5, err_msg=str(size))


def test_a_picture_of_the_side_that_is_no_square_is_filled_too():
    """There hpsv2 itself fills nothing, and its tower refuses the picture."""
    image = picture(24, 17, "points")
    got = np.asarray(Letterbox(24)(jnp.asarray(image[None]))[0]) * CONFIG["image_std"] + CONFIG["image_mean"]
    assert got.shape == (24, 24, 3)
    np.testing.assert_allclose(got[:, 3:20] * 255, image, atol=1e-3)
    np.testing.assert_allclose(np.concatenate([got[:, :3], got[:, 20:]], 1), 0, atol=1e-6)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"size": 336}, "expected size 224, the tower's image_size, found 336"),
        ({"interpolation": "bilinear"}, "interpolation must be bicubic, found 'bilinear'"),
        ({"resize_mode": "longest"}, "resize_mode must be shortest or squash, found 'longest'"),
        ({"mean": [1, 2]}, r"three numbers under mean, found \[1, 2\]"),
    ],
)
def test_other_preparations_of_open_clip_are_refused(changes, expected):
    with pytest.raises(UserError, match=expected):
        Preprocess.open_clip(OPEN | changes, 224)
