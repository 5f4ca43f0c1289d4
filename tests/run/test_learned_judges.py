"""A training run under a small random HPSv3 and ImageReward, which fail on a tenth of the pictures."""

import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.rewards import Judgement, kinds
from mvgrpo_jax.run import loop, metrics
from tests.rewards import judges
from tests.runs import small_config


def failing(cls, every: int, monkeypatch, module):
    """Lets a judge on the devices fail on the pictures whose sum of bytes divides."""

    class Failing(cls):
        def score(self, params, images, tokens):
            scores, valid = super().score(params, images, tokens)
            lost = images.astype(jnp.int32).sum((-3, -2, -1)) % every == 0
            return Judgement(scores, (True if valid is None else valid) & ~lost[None])

    monkeypatch.setattr(module, "JUDGE", Failing)


@pytest.fixture
def config(hpsv3, tmp_path, monkeypatch):
    for kind in ("hpsv3", "imagereward"):
        module = kinds.module(kind)
        failing(module.JUDGE, 10, monkeypatch, module)
    folder = tmp_path / "imagereward"
    folder.mkdir()
    quality, liking = hpsv3(), judges.imagereward(folder, "exact").options
    c = small_config(iterations=3, group_size=4)
    c.rewards = {"quality": 1.0, "imagereward": 0.5, "scene": 0.0}
    c.judges = {
        "quality": {"kind": "hpsv3", "folder": str(quality.folder), "base": str(quality.base), "dtype": "float32"},
        "imagereward": liking,
        "scene": {},
    }
    c.judges.quality.offload = True
    return c


@pytest.mark.nightly
def test_a_run_under_learned_judges_that_fail_on_some_pictures(config, compiled, tmp_path, monkeypatch):
    iterate = loop.Loop.iterate
    monkeypatch.setattr(loop.Loop, "iterate", lambda self, number: (iterate(self, number), compiled.append(number)))
    loop.train(config, tmp_path / "run")
    assert compiled[compiled.index(0) : compiled.index(2)] == [0, 1], "captions of unlike lengths share a program"
    rows = metrics.read(tmp_path / "run")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    pictures = 2 * 2 * 4
    for row in rows[:3]:
        for name in ("quality", "imagereward"):
            lost = row[f"reward_invalid/{name}"] * pictures * 3  # the same pictures under each of three captions
            assert lost == pytest.approx(3 * round(lost / 3)), "a picture is lost under all captions or none"
            assert np.isfinite(row[f"reward/{name}"]) and row[f"judge/{name}_pictures_per_s"] > 0
        # The sum of bytes is the same number for both judges.
        assert row["reward_invalid/quality"] == row["reward_invalid/imagereward"]
        assert row["reward_invalid/scene"] == 0
        assert np.isfinite(row["loss"]) and np.isfinite(row["grad_norm"])
    shares = [row["reward_invalid/quality"] for row in rows[:3]]
    assert 0 < np.mean(shares) < 0.4
