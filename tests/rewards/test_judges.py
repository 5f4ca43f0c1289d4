"""Judges with published weights, at small size: from picture files to torch's numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvgrpo_jax import rewards
from mvgrpo_jax.rewards import scoring
from tests.rewards.judges import MAKERS

CAPTIONS = [
    "a red circle on a white background",
    "",
    "красный круг, 猫 と 犬 🙂 naïve café",
    " ".join(f"word{i}" for i in range(120)),
    "It’s “ﬁne”,\u3000ＷＩＤＥ &amp; <b>bold</b>\n  SHOUTED",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files, and each as Pillow's RGB."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    noise = lambda *shape: generator.integers(0, 256, shape, np.uint8)
    made = {
        "tall.png": Image.fromarray(noise(91, 40, 3)),
        "clear.png": Image.fromarray(noise(28, 28, 4), "RGBA"),
        "point.png": Image.fromarray(noise(1, 1, 3)),
        "wide.png": Image.fromarray(noise(31, 70, 3)),
        "gray.png": Image.fromarray(noise(24, 29)),
    }
    for name, picture in made.items():
        picture.save(folder / name)
    rgba = np.asarray(made["clear.png"], np.float32) / 255
    over = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    made["clear.png"] = Image.fromarray(np.round(over * 255).astype(np.uint8))
    return [folder / name for name in made], [picture.convert("RGB") for picture in made.values()]


@pytest.mark.parametrize("variant", ["exact", pytest.param("quick", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore:the .* judge reads")
def test_scores_from_files_are_torchs(name, variant, case, pictures):
    kind, options, peer, _ = case(name, variant)
    shown = {"exact": slice(0, 3), "quick": slice(3, 5)}[variant]  # each size is a program of its own
    paths, images = (items[shown] for items in pictures)
    words = [f"judge.{key}={value}" for key, value in options.items()] + [f"judge.kind={kind}"]
    judges = scoring.make_judges(["judge"], words)
    got, _ = scoring.score(judges, paths, CAPTIONS, all_pairs=True)
    want = np.concatenate([peer([image], CAPTIONS) for image in images])
    tolerance = 1e-4 * max(1.0, np.abs(want).max())
    np.testing.assert_allclose(got["judge"], want, atol=tolerance)
    assert np.median(np.ptp(want, axis=0)) > 10 * tolerance  # the pictures differ, so that the comparison says something
    assert name == "aesthetic" or np.median(np.ptp(want, axis=1)) > 10 * tolerance


def near(got, want):
    want = want.numpy()
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("variant", ["exact", "quick"])
@pytest.mark.parametrize("name", ["clip of open_clip", "imagereward"])
def test_towers_are_torchs(name, variant, case):
    """tests/models has those of transformers."""
    kind, options, _, tower = case(name, variant)
    judge = rewards.make(kind, options)
    net, side, rng = judge.network.bind(judge.load()), judge.prepare.side, np.random.default_rng(0)
    image = rng.normal(size=(3, side, side, 3)).astype(np.float32)
    pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        if name == "imagereward":
            near(net.vision_model(image), tower(pixels).last_hidden_state)
            return
        near(net.embed_image(image), tower.encode_image(pixels, normalize=True))
        ids = rng.integers(300, 40_000, (3, tower.positional_embedding.shape[0]))
        ids[[0, 1, 2], [2, 17, -1]] = 49407  # ends
        near(net.embed_text(ids), tower.encode_text(torch.from_numpy(ids), normalize=True))
