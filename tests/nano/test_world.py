"""The world: what is drawn is read back, what is written is read back, and the judge agrees with the words."""

import dataclasses

import numpy as np
import pytest

from mvgrpo_jax.nano.world import captions, render, scene, score, truth, vision
from mvgrpo_jax.nano.world.scene import Scene, Thing

SCENES = [scene.sample(np.random.default_rng(i)) for i in range(150)]


def test_pictures_are_read_back():
    """Small shapes of 7 pixels can be mistaken for each other now and then; everything else never is."""
    exact = 0
    for s in SCENES:
        seen = vision.parse(render.draw(s))
        assert seen.background == s.background and seen.count == s.count
        assert {(t.color, t.place, t.size) for t in seen.things} == {(t.color, t.place, t.size) for t in s.things}
        exact += set(seen.things) == set(s.things)
    assert exact >= 0.97 * len(SCENES)


def test_true_captions_score_high_and_false_ones_lower():
    right = [score.score(render.draw(s), s) for s in SCENES]
    wrong = [score.score(render.draw(s), other) for s, other in zip(SCENES, SCENES[1:])]
    assert np.mean(right) > 0.95 and min(right) > 0.85 and np.mean(wrong) < 0.5


def test_every_changed_attribute_costs():
    rng = np.random.default_rng(0)
    for s in SCENES[:80]:
        changed = truth.alter(s, rng)
        image = render.draw(s)
        if not truth.holds([s], [changed])[0, 0]:
            assert score.score(image, changed) < score.score(image, s) - 0.02


def test_score_by_hand():
    """One red circle at the centre on white, judged on two attributes, one true and one false, and the number named."""
    image = render.draw(Scene((Thing("circle", "red", "large", "center"),), "white"))
    value, grades = score.score_reading(vision.look(image), Scene((Thing(color="red", place="top-left"),)))
    assert grades["place"] == [0.0] and grades["color"][0] > 0.99
    assert value == pytest.approx((grades["color"][0] + 0.0 + 1.0) / 3)
    value, grades = score.score_reading(vision.look(image), Scene(count=3))
    assert value == 0.0 and grades["count"] == [0.0]
    assert score.score(image, Scene((Thing("circle", "red"), Thing("square", "blue")))) == pytest.approx(2.5 / 5, abs=0.02)
    two = render.draw(Scene((Thing("circle", "red", "large", "center"), Thing("circle", "red", "large", "top-left")), "white"))
    assert score.score_reading(vision.look(two), Scene((Thing("circle"),)))[1]["count"] == [0.5]


def test_an_empty_picture_and_nonsense():
    flat = np.full((32, 32, 3), 0.96, np.float32)
    assert vision.parse(flat) == Scene((), "white", 0)
    assert score.score(flat, Scene((Thing("circle", "red"),))) == 0.0
    assert score.score(flat, Scene(background="white")) > 0.99
    noise = np.random.default_rng(0).uniform(size=(32, 32, 3))
    assert 0.0 <= score.score(noise, SCENES[0]) < 0.5
    assert 0.0 <= score.score(np.full((32, 32, 3), np.nan), SCENES[0]) <= 1.0
    with pytest.raises(ValueError, match="32 x 32"):
        vision.look(np.zeros((16, 16, 3)))


def test_words_are_read_back():
    rng = np.random.default_rng(0)
    for s in SCENES:
        assert captions.read(captions.write(s)) == s
        open_scene = captions.leave_open(s, rng, {"shape": 0.5, "color": 0.5, "size": 0.5, "place": 0.5}, 0.5)
        assert captions.read(captions.write(open_scene)) == open_scene
        assert captions.read(captions.reword(captions.write(open_scene), rng, 1.0)) == open_scene


@pytest.mark.parametrize(
    "text, meaning",
    [
        ("a small red circle top-left", Scene((Thing("circle", "red", "small", "top-left"),))),
        ("A photo of a BLUE box, please!", Scene((Thing("square", "blue"),))),
        ("two shapes on a blue background", Scene((), "blue", 2)),
        ("an orange background", Scene((), "orange")),
        ("one object: a tiny plus middle", Scene((Thing("cross", None, "small", "center"),), None, 1)),
        ("something else entirely", Scene()),
        ("", Scene()),
    ],
)
def test_reading(text, meaning):
    assert captions.read(text) == meaning


def test_descriptions_are_true_of_their_scene():
    for s in SCENES[:60]:
        for perspective in captions.PERSPECTIVES:
            assert truth.holds([s], [captions.read(captions.describe(s, perspective))])[0, 0]
    with pytest.raises(ValueError, match="there are: overall"):
        captions.describe(SCENES[0], "mood")


def test_truth_needs_a_different_thing_for_each_claim():
    s = Scene((Thing("circle", "red", "small", "top"), Thing("circle", "blue", "large", "left")), "white", 2)
    claims = [
        Scene((Thing("circle"), Thing("circle"))),
        Scene((Thing("circle"), Thing("circle"), Thing("circle"))),
        Scene((Thing(color="blue"), Thing(color="red"))),
        Scene((Thing("circle", "red", "large"),)),
        Scene((Thing("circle", "red"),)),
        Scene(count=2),
        dataclasses.replace(s, background="black"),
    ]
    np.testing.assert_array_equal(truth.holds([s], claims)[0], [True, False, True, False, False, True, False])


def test_held_out_pairs_stay_out():
    rng = np.random.default_rng(0)
    assert not any(scene.sample(rng).is_held_out() for _ in range(500))
    held = [scene.sample(rng, held_out=True) for _ in range(200)]
    assert all(s.is_held_out() and len({t.color for t in s.things}) == len(s.things) for s in held)
    known = {(t.color, t.shape) for s in (scene.sample(rng) for _ in range(3000)) for t in s.things}
    assert {c for c, _ in known} == set(scene.COLORS) and {s for _, s in known} == set(scene.SHAPES)
