"""Quality against drawings whose faults are known."""

import numpy as np
import pytest
from scipy import ndimage

from mvgrpo_jax.nano.world import quality, render
from mvgrpo_jax.nano.world.scene import Scene, Thing

SCENE = Scene((Thing("square", "red", "large", "center"),), "gray", 1)


def test_the_clean_drawing_is_drawn_again():
    image = render.draw(SCENE)
    again = quality.redraw(image)
    assert np.abs(again - image).mean() < 0.01
    assert quality.quality(image) > 0.8


@pytest.mark.parametrize("strength", [0.02, 0.06])
def test_noise_lowers_it_by_its_variance(strength):
    image = render.draw(SCENE)
    noise = np.random.default_rng(0).normal(0, strength, image.shape).astype(np.float32)
    noisy = np.clip(image + noise, 0, 1)
    left = np.log(quality.quality(image)) - np.log(quality.quality(noisy))
    added = ((noisy - image) ** 2).mean() / quality.SCALE**2  # the noise is not drawn again
    assert left == pytest.approx(added, rel=0.2)


def test_blur_lowers_it_and_another_colour_does_not():
    image = render.draw(SCENE)
    green = render.draw(Scene((Thing("square", "green", "large", "center"),), "gray", 1))
    assert quality.quality(ndimage.gaussian_filter(image, (1.2, 1.2, 0))) < 0.85 * quality.quality(image)
    assert quality.quality(green) == pytest.approx(quality.quality(image), abs=0.05)


def test_as_a_judge_it_takes_no_notice_of_captions():
    image = np.round(render.draw(SCENE) * 255).astype(np.uint8)
    scores = quality.judge(np.stack([image, np.zeros_like(image)]), [["a", "b", "c"]] * 2)
    assert scores.shape == (2, 3) and (scores == scores[:, :1]).all()
