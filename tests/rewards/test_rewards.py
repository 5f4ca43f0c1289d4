"""Judges: shapes, shared evaluation, and agreement with the torch peer."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mvgrpo_jax import rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.judge import SceneReward
from mvgrpo_jax.nano.pretrain import tokenizers
from mvgrpo_jax.nano.world import render
from mvgrpo_jax.nano.world.scene import Scene, Thing
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.run.pictures import to_uint8
from tests import peers

RED = Scene((Thing("circle", "red", "large", "center"),), "white", 1)
BLUE = Scene((Thing("square", "blue", "small", "top"),), "black", 1)
# [P=2, n=2]
IMAGES = to_uint8(np.stack([render.draw(s) for s in (RED, BLUE, BLUE, RED)]).reshape(2, 2, 32, 32, 3))
TEXTS = [["a red circle", "a blue square"], ["a black background", None]]


def judged(judge, images, texts, mesh=None):
    """Scores [V, P, n] of one judge, not-a-number where there is none."""
    panel = rewards.Panel({"it": judge}, mesh)
    place = (lambda a: jax.device_put(a, rules.sharding(mesh, "prompts", "lanes"))) if mesh else jnp.asarray
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        return panel.score("it", Owned(place(images), images.shape[1]), texts)


def test_the_exact_judge_scores_every_view():
    got = judged(rewards.make("scene"), IMAGES, TEXTS)
    assert got.shape == (2, 2, 2) and got.dtype == np.float32
    assert got[0, 0, 0] > 0.95 > 0.5 > got[0, 0, 1]
    assert got[0, 1, 0] > 0.9 > 0.5 > got[0, 1, 1]
    assert got[1, 0, 1] > 0.99
    np.testing.assert_array_equal(np.isnan(got), [[[False, False], [False, False]], [[False, False], [True, True]]])


def test_a_judge_that_cannot_tell_says_so():
    class Unsure(SceneReward):
        def score(self, images, captions):
            scores = super().score(images, captions).scores
            return rewards.Judgement(scores, scores > 0.5)

    got, want = judged(Unsure(), IMAGES, TEXTS), judged(rewards.make("scene"), IMAGES, TEXTS)
    assert (want < 0.5).any()
    np.testing.assert_array_equal(got, np.where(want > 0.5, want, np.nan))


def test_a_judge_that_gives_no_number_or_not_enough():
    class Broken(SceneReward):
        def score(self, images, captions):
            scores = np.ones((len(images), len(captions[0])), np.float32)
            scores[1, 0], scores[2, 0] = np.nan, np.inf
            return rewards.Judgement(scores)

    np.testing.assert_array_equal(np.isnan(judged(Broken(), IMAGES, TEXTS[:1])), [[[False, True], [True, False]]])

    class Short(SceneReward):
        def score(self, images, captions):
            return rewards.Judgement(np.ones((len(images) - 1, len(captions[0])), np.float32))

    with pytest.raises(UserError, match=r"'it' was asked for 4 x 2 scores \(pictures x captions\), it gave 3 x 2"):
        judged(Short(), IMAGES, TEXTS)


def test_an_error_of_a_judge_reaches_who_waits():
    with pytest.raises(UserError, match="32 x 32 pixels, got one of 16 x 16"):
        judged(rewards.make("scene"), IMAGES[:, :, :16, :16], TEXTS)


def write_clip(folder, side=24):
    import json

    tokenizer = tokenizers.clip_tokenizer()
    peer = peers.clip("guided", len(tokenizer))
    peer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}))
    return peer, tokenizer


def test_clip_score_is_transformers_cosine(tmp_path):
    peer, tokenizer = write_clip(tmp_path)
    judge = rewards.make("clip", {"folder": str(tmp_path), "scale": 2.0, "chunk": 3})
    images = np.random.default_rng(0).integers(0, 256, (2, 2, 24, 24, 3), np.uint8)
    got = judged(judge, images, TEXTS)
    pixels = (images.reshape(-1, 24, 24, 3) / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    texts = ["a red circle", "a blue square", "a black background"]
    ids = tokenizer(texts, padding="max_length", max_length=tokenizers.CLIP_LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        out = peer(input_ids=ids, pixel_values=torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))
    cosine = (out.image_embeds @ out.text_embeds.T).numpy().reshape(2, 2, 3)
    np.testing.assert_allclose(got[0], 2 * np.stack([cosine[0, :, 0], cosine[1, :, 1]]), atol=1e-5)
    np.testing.assert_allclose(got[1, 0], 2 * cosine[0, :, 2], atol=1e-5)
    assert np.isnan(got[1, 1]).all()


def test_each_of_eight_devices_does_an_eighth_of_the_work(tmp_path):
    """Two prompts of four pictures under four texts; test_judge_devices has the scores of every judge."""
    write_clip(tmp_path)
    judge, mesh = rewards.make("clip", {"folder": str(tmp_path)}), make_mesh(2, 4, 1, prompts=2)
    panel = rewards.Panel({"clip": judge}, mesh)
    images = np.zeros((2, 4, 24, 24, 3), np.uint8)
    tokens = judge.tokens(["x"] * 8).reshape(4, 2, -1)
    with jax.set_mesh(mesh):
        placed = jax.device_put(images, rules.sharding(mesh, "prompts", "lanes"))
        texts = jax.device_put(tokens, rules.sharding(mesh, None, "prompts"))
        eight = panel.program("clip").lower(panel.params["clip"], placed, texts).compile().cost_analysis()
    one = jax.jit(judge.score).lower(judge.load(), jnp.asarray(images), tokens).compile().cost_analysis()
    assert eight["flops"] < one["flops"] / 6  # 8 pictures and 8 texts


def test_a_judge_that_rests_leaves_the_devices(tmp_path):
    """Between `rest` and the next question its parameters are in the host's memory alone; the scores stay what they are."""
    write_clip(tmp_path)
    judge = rewards.make("clip", {"folder": str(tmp_path)})
    want, mesh = judged(judge, IMAGES[:, :, :24, :24], TEXTS), make_mesh(2, 4, 1, prompts=2)
    panel = rewards.Panel({"clip": judge}, mesh, frozenset(["clip"]))
    assert panel.params["clip"] is None
    assert {a.sharding.memory_kind for a in jax.tree.leaves(panel.away["clip"])} == {"pinned_host"}
    with jax.set_mesh(mesh):
        pictures = Owned(jax.device_put(np.repeat(IMAGES[:, :, :24, :24], 2, 1), rules.sharding(mesh, "prompts", "lanes")), 4)
        for _ in range(2):
            np.testing.assert_allclose(panel.score("clip", pictures, TEXTS)[..., ::2], want, atol=1e-6)
            assert {a.sharding.memory_kind for a in jax.tree.leaves(panel.params["clip"])} == {"device"}
            panel.rest()
            assert panel.params["clip"] is None


def test_pictures_of_another_size_are_resized_and_cropped(tmp_path):
    write_clip(tmp_path)
    judge = rewards.make("clip", {"folder": str(tmp_path)})
    wide = np.ones((1, 48, 96, 3), np.float32) * np.linspace(0, 1, 96)[None, None, :, None]
    prepared = np.asarray(judge.prepare(wide.astype(np.float32)))
    assert prepared.shape == (1, 24, 24, 3)
    middle = prepared * np.float32([0.2, 0.3, 0.4]) + np.float32([0.4, 0.5, 0.6])  # the middle half of the gradient is left
    np.testing.assert_allclose(middle[0, 12, [0, -1], 0], [0.255, 0.745], atol=0.02)


def test_captions_over_the_towers_length_are_counted_and_warned_of_once(tmp_path):
    _, tokenizer = write_clip(tmp_path)
    judge = rewards.make("clip", {"folder": str(tmp_path)})
    long = "a small red circle top-left and " * 12
    assert len(tokenizer(long)["input_ids"]) > tokenizers.CLIP_LENGTH > len(tokenizer("a red circle")["input_ids"])
    with pytest.warns(UserWarning, match=f"reads {tokenizers.CLIP_LENGTH} tokens .* of 2 of 4, such as 'a small red circle"):
        got = judged(judge, IMAGES, [["a red circle", long], [long + "more", None]])
    assert judge.take_cut() == 2
    ids = tokenizer([long], max_length=tokenizers.CLIP_LENGTH, truncation=True)["input_ids"]
    assert ids[0][-1] == tokenizer.eos_token_id  # the end stays, as transformers cuts
    text = np.asarray(judge.embed_texts(judge.load(), jnp.asarray(ids)[None]))[0, 0]
    images = np.asarray(judge.embed_images(judge.load(), jnp.asarray(IMAGES)))[1]
    np.testing.assert_allclose(got[0, 1], images @ text, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged(judge, IMAGES, [[long, long]])
        assert judge.take_cut() == 1  # a text counts once, however often it is asked about
        judged(judge, IMAGES, TEXTS)
    assert judge.take_cut() == 0


def test_unknown_judges_are_named():
    with pytest.raises(UserError, match="unknown reward 'clup'; Did you mean 'clip'"):
        rewards.make("clup")


def test_the_embedded_tower_tells_right_from_wrong():
    judge = rewards.make("clip")
    texts = ["a large red circle center on a white background", "a small blue square top on a black background"]
    got = judged(judge, IMAGES, [texts])
    assert got[0, 0, 0] > got[0, 0, 1] and got[0, 1, 0] > got[0, 1, 1]
