"""A whole run whose workdir is in object storage, ended and gone on with."""

import functools
import json

import numpy as np
import pytest

from mvgrpo_jax import pipelines
from mvgrpo_jax import report as report_command
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import checkpoint, export, lines, loop, metrics, sampling
from mvgrpo_jax.storage import claims, place
from tests.runs import small_config
from tests.storage.bucket import mount


def test_lines_in_parts(tmp_path, monkeypatch):
    mount(monkeypatch, tmp_path)
    monkeypatch.setattr(lines, "PART", 2)
    path = place("gs://bucket/a.jsonl")
    file = lines.writer(path, ["kept"])
    for word in ("1", "2", "3"):
        file.add(word)
        assert lines.read(path)[-1] == word
    assert (tmp_path / "bucket/a.jsonl").read_text() == "kept\n"
    assert sorted(p.name for p in (tmp_path / "bucket/a.jsonl.parts").iterdir()) == ["000000", "000001"]
    again = lines.writer(path, lines.read(path)[:2])  # as after a kill
    assert lines.read(path) == ["kept", "1"]
    again.add("two")
    again.close()
    assert (tmp_path / "bucket/a.jsonl").read_text() == "kept\n1\ntwo\n" and list((tmp_path / "bucket").iterdir()) == [
        tmp_path / "bucket/a.jsonl"
    ]


LEFT = """before_after.png best/1/files.json checkpoints/1/files.json config.json eval/000000.json eval/000000.npy
eval/000000.png eval/000001.json eval/000001.npy eval/000001.png eval/prompts.json lora/kohya.safetensors
lora/pytorch_lora_weights.safetensors
lora/README.md metrics.jsonl pipeline.json report.html samples/000000.json samples/000000.png lock"""


@pytest.mark.nightly
def test_a_run_in_a_bucket(tmp_path, monkeypatch):
    """Its files; the same command, with more iterations, goes on."""
    mount(monkeypatch, tmp_path)
    monkeypatch.setattr(claims, "BEAT", 0.2)
    monkeypatch.chdir(tmp_path)
    config = small_config(iterations=1)
    config.log.trackers = ("tensorboard",)
    config.lora.update(rank=2, alpha=2.0)
    config.checkpoint.every, config.views.count = 1, 1
    folder, root = loop.train(config, "gs://bucket/run"), tmp_path / "bucket/run"
    assert str(folder) == "gs://bucket/run/lora" and not (tmp_path / "gs:").exists()
    assert {name for name in LEFT.split() if not (root / name).exists()} == {"lock"}  # given back
    assert list((root / "tensorboard").iterdir()) and not list(root.glob("*.parts"))
    rows = metrics.read("gs://bucket/run")
    assert [r["iteration"] for r in rows] == [0, 1]

    config.iterations = 2
    loop.train(config, "gs://bucket/run")
    assert metrics.read("gs://bucket/run")[0] == rows[0] and (root / "checkpoints/2/commit_success.txt").exists()
    assert [r["iteration"] for r in metrics.read("gs://bucket/run")] == [0, 1, 2]
    report_command.main(["gs://bucket/run", "--out", "gs://bucket/report.html"])
    assert (tmp_path / "bucket/report.html").exists()
    again = export.from_checkpoint(place("gs://bucket/run"), place("gs://bucket/again"), kind="pipeline")
    assert json.loads((again / "model_index.json").read_text())["_class_name"] == "FluxPipeline"
    sampled = sampling.load_trained(place("gs://bucket/run"), step=2).params["transformer"]
    merged = pipelines.load(tmp_path / "bucket/again/pipeline", dtype=np.float32).params["transformer"]
    name = "transformer_blocks", "attn", "to_q", "kernel"
    kernel, down, up = (functools.reduce(dict.__getitem__, (*name[:-1], n), sampled) for n in ("kernel", "lora_a", "lora_b"))
    np.testing.assert_allclose(functools.reduce(dict.__getitem__, name, merged), kernel + down @ up, rtol=1e-2, atol=1e-3)
    with pytest.raises(UserError, match="holds another run:\n  seed: 0 there, 1 now"):
        config.seed = 1
        loop.train(config, "gs://bucket/run")


def test_a_bucket_where_nothing_was_finished(tmp_path, monkeypatch):
    mount(monkeypatch, tmp_path)
    (tmp_path / "bucket/run/checkpoints/2/state").mkdir(parents=True)
    (tmp_path / "bucket/run/checkpoints/2/state/_METADATA").write_text("{")
    series = checkpoint.Series(place("gs://bucket/run/checkpoints"), 3)
    with pytest.warns(UserWarning, match=r"passed over \(2: it was never finished\) for the pipeline's weights"):
        assert series.newest({}, discard=True) is None
    assert series.steps() == []
    series.close()
