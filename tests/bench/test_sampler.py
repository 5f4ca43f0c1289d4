"""The sampler's benchmark: both sides paint the same pictures, work is counted, and pictures that differ are not timed."""

import argparse
import json
import shutil

import pytest

from bench import sampler
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import flux

OPTIONS = argparse.Namespace(steps=3, rounds=2, seconds=60.0, compiled=False)


@pytest.mark.nightly
@pytest.mark.parametrize("variant, count", [("guided", 2), ("narrow", 1)])
def test_a_row(random_pipeline, variant, count):
    row = sampler.measure(random_pipeline(variant), count, OPTIONS)
    assert row["pictures"] == count and row["rounds"] == 2 and set(row["ratios"]) == {"diffusers"}
    assert 0 < row["largest_difference"]["diffusers"] < sampler.TOLERANCE
    ours = sampler.Ours(random_pipeline(variant), ["a red circle"] * count, OPTIONS.steps)
    tokens = ours.painter.shape[0]
    one = flux.forward_flops(ours.pipeline.flux_config, tokens, ours.painter.length)
    rest = row["operations"] - OPTIONS.steps * count * one  # text encoders and decoder
    longer = sampler.Ours(random_pipeline(variant), ["a red circle"] * count, OPTIONS.steps + 2)
    assert longer.operations() - row["operations"] == 2 * count * one and rest > 0
    assert f"{count} pictures, 3 steps, 2 rounds" in sampler.show(row)


def test_pictures_that_differ_are_not_timed(random_pipeline, tmp_path, monkeypatch):
    """FluxPipeline reads a schedule of another shift than ours."""
    folder = tmp_path / "other"
    shutil.copytree(random_pipeline("narrow"), folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shift": 5.0}))
    theirs = sampler.Theirs
    monkeypatch.setattr(sampler, "Theirs", lambda _, *rest, **settings: theirs(folder, *rest, **settings))
    with pytest.raises(UserError, match="more than 0.001; figures of different work tell nothing"):
        sampler.measure(random_pipeline("narrow"), 1, OPTIONS)
