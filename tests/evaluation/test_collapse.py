"""Collapse: distances and near-duplicates against plain loops, brightness and saturation against colorsys."""

import colorsys

import numpy as np
import pytest

from mvgrpo_jax.evaluation import collapse, look


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_distances_are_means_over_the_pairs_that_are_there():
    vectors = unit(np.random.default_rng(0).normal(size=(3, 4, 5)))
    vectors[1, 2] = np.nan
    vectors[2, 1:] = np.nan
    found = collapse.distances(vectors)
    for p, there in ((0, range(4)), (1, (0, 1, 3))):
        pairs = [1 - vectors[p, i] @ vectors[p, j] for i in there for j in there if i < j]
        assert found[p] == pytest.approx(np.mean(pairs))
    assert np.isnan(found[2])


def test_deviations_are_root_mean_squares():
    images = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 4, 3), np.uint8)
    pairs = [np.sqrt(((images[1, i] / 255 - images[1, j] / 255) ** 2).mean()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert collapse.deviations(images)[1] == pytest.approx(np.mean(pairs))


def test_near_duplicates_are_those_of_other_texts(monkeypatch):
    rng = np.random.default_rng(2)
    vectors = unit(rng.normal(size=(40, 16)))
    texts = [f"prompt {i // 2}" for i in range(40)]
    vectors[1] = vectors[0]  # of the same prompt: no sign of collapse
    vectors[30] = unit(vectors[7] + 0.02 * rng.normal(size=16))
    vectors[31] = unit(vectors[7] + 0.03 * rng.normal(size=16))
    expected = {
        (i, j)
        for i in range(40)
        for j in range(40)
        if i < j and texts[i] != texts[j] and vectors[i] @ vectors[j] >= collapse.DUPLICATE
    }
    assert expected == {(7, 30), (7, 31)}
    for block in (7, 512):
        monkeypatch.setattr(collapse, "BLOCK", block)
        found = collapse.duplicates(vectors.astype(np.float32), texts)
        assert found.share == pytest.approx(3 / 40)
        assert {pair[:2] for pair in found.pairs} == expected
        assert [c for *_, c in found.pairs] == sorted((c for *_, c in found.pairs), reverse=True)


def test_one_prompt_has_nothing_to_be_compared_with():
    assert collapse.duplicates(unit(np.ones((3, 4))), ["a"] * 3) == (0.0, [])


def test_a_look_is_brightness_and_saturation():
    image = np.random.default_rng(3).integers(0, 256, (6, 4, 3), np.uint8)
    image[0, 0] = 0
    found = look.measured(image)
    pixels = (image / 255).reshape(-1, 3)
    assert found["saturation"] == pytest.approx(np.mean([colorsys.rgb_to_hsv(*p)[1] for p in pixels]))
    assert found["brightness"] == pytest.approx(np.mean([0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in pixels]))
    assert found["finite"] is True and look.measured(image, np.False_)["finite"] is False


def test_the_small_picture_is_one_of_areas():
    image = np.random.default_rng(4).integers(0, 256, (96, 64, 3), np.uint8)
    areas = image.reshape(32, 3, 32, 2, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(look.small(look.measured(image)) / 255, areas, atol=1.01 / 255)  # Pillow rounds rows and columns
