"""HPSv3 from a picture file to a number against plain torch, whole sequences one at a time, on small random models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from mvgrpo_jax.rewards import scoring
from mvgrpo_jax.rewards.kinds import hpsv3 as kind
from tests.rewards.hpsv3_peer import judge_of
from tests.rewards.test_rewards import judged

pytestmark = pytest.mark.slow

CAPTIONS = [
    "",
    "a cat",
    "\u732b\u304c\u5ea7\u308b, \u0645\u0631\u062d\u0628\u0627 \U0001f600",
    "a red table and a cat on it, " * 9,
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files: square, made smaller; tall and wide, made larger; of a size that becomes 420 x 420; transparent; gray."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    draw = lambda *shape: np.kron(rng.integers(0, 256, (4, 4, *shape[2:])), np.ones((shape[0] // 4, shape[1] // 4, 1))).astype(
        np.uint8
    )
    images = {
        "square": Image.fromarray(draw(512, 512, 3)),
        "tall": Image.fromarray(draw(180, 60, 3)),
        "wide": Image.fromarray(draw(40, 120, 3)),
        "trap": Image.fromarray(draw(576, 576, 3)),
        "clear": Image.fromarray(draw(96, 96, 4), "RGBA"),
        "gray": Image.fromarray(draw(96, 96, 1)[..., 0]),
    }
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in images}


@pytest.mark.parametrize("variant", ["grouped", pytest.param("single", marks=pytest.mark.nightly)])
def test_scores_of_files_are_torchs(hpsv3, pictures, variant):
    """Every picture under every caption, and pictures and captions in pairs."""
    judge = judge_of(hpsv3(variant), scale=2.0)
    paths = list(pictures.values())[:: 1 if variant == "grouped" else 2]
    got = scoring.score({"it": judge}, paths, CAPTIONS, all_pairs=True)[0]["it"]
    want = np.array([[2 * hpsv3(variant).score(path, text)[0] for text in CAPTIONS] for path in paths])
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert want.std(0).min() > 0.05 and want.std(1).min() > 1e-3  # both the picture and the caption count
    pairs = [(0, 1), (2, 3), (2, 0)]
    got = scoring.score({"it": judge}, [paths[i] for i, _ in pairs], [CAPTIONS[j] for _, j in pairs])[0]["it"]
    np.testing.assert_allclose(got, [want[pair] for pair in pairs], atol=1e-4)


def test_multimodal_positions_are_transformers_own_and_differ(hpsv3, pictures):
    judge, path = judge_of(hpsv3(), positions="mrope"), pictures["wide"]
    got = scoring.score({"it": judge}, [path], CAPTIONS[1:], all_pairs=True)[0]["it"][0]
    want = [hpsv3().score(path, text, positions="mrope")[0] for text in CAPTIONS[1:]]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got - [hpsv3().score(path, text)[0] for text in CAPTIONS[1:]]).min() > 1e-4


@pytest.mark.nightly
def test_neither_padding_nor_groups_matter(hpsv3, monkeypatch):
    """Captions with a longer one beside them, three, two and one at a time; a device's pictures at once and one by one."""
    judge, rng = judge_of(hpsv3(), chunk=3), np.random.default_rng(3)
    images = rng.uniform(size=(1, 3, 32, 28, 3)).astype(np.float32)
    texts = [["a cat"], [""], ["a red table " * 20]]
    alone = np.concatenate([judged(judge, images, [text]) for text in texts[1:]])
    length = judge.tokens(texts[2])["ids"].shape[1]
    assert length > judge.tokens(texts[1])["ids"].shape[1]
    for together, other in ((3, judge), (2, judge), (1, judge_of(hpsv3(), chunk=1))):
        monkeypatch.setattr(kind, "TOGETHER", together * length)
        np.testing.assert_allclose(judged(other, images, texts)[1:], alone, atol=1e-5)


def test_captions_share_few_lengths(hpsv3):
    judge = judge_of(hpsv3())
    lengths = {judge.tokens(["a cat " * n])["ids"].shape[1] for n in range(0, 400, 7)}
    assert lengths <= set(kind.LENGTHS) and len(lengths) > 3
    made = judge.tokens(["a cat", "", "a cat"])
    assert jax.tree.map(lambda a: a.shape[1:], made) == {"ids": (32,), "last": ()}
    assert {k: (len(x.shape), x.dtype) for k, x in judge.token_shapes.items()} == {
        k: (a.ndim - 1, a.dtype) for k, a in made.items()
    }
    with pytest.warns(UserWarning, match="reads 1024 tokens .* of 2 of 3, such as 'a cat a cat"):
        made = judge.tokens(["a cat " * 2000, "a cat", "b " + "a cat " * 2000])
    assert made["ids"].shape == (3, 1024) and made["last"].tolist()[0] == 1023 and judge.take_cut() == 2
    assert judge.take_cut() == 0


def test_bfloat16_is_as_exact_as_torchs(hpsv3, pictures):
    """Weights as the published file has them, a float32 head, and an error of the size that torch's bfloat16 makes."""
    judge, paths = judge_of(hpsv3(), dtype="bfloat16"), list(pictures.values())[-2:]
    params = judge.load()
    assert {name: {x.dtype.name for x in jax.tree.leaves(part)} for name, part in params.items()} == {
        "visual": {"bfloat16"},
        "model": {"bfloat16"},
        "rm_head": {"float32"},
    }
    assert jax.tree.map(lambda a: (a.shape, a.dtype), params) == jax.tree.map(
        lambda a: (a.shape, jnp.dtype(a.dtype)), judge.network.shapes
    )
    got = scoring.score({"it": judge}, paths, CAPTIONS, all_pairs=True)[0]["it"]
    table = lambda: np.array([[hpsv3().score(path, text)[0] for text in CAPTIONS] for path in paths])
    exact = table()
    try:
        hpsv3().model.to(torch.bfloat16)
        theirs = table()
    finally:
        hpsv3().model.float()
        hpsv3().model.load_state_dict(hpsv3().state)
    ours, torchs = (np.sqrt(np.mean((x - exact) ** 2)) for x in (got, theirs))
    assert 1e-6 < ours < 1.5 * torchs
