"""A whole run whose workdir is in object storage, stopped and gone on with."""

import json

import pytest

from mvgrpo_jax import report as report_command
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import checkpoint, export, lines, loop, metrics
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


LEFT = """before_after.png checkpoints/1/files.json checkpoints/2/files.json config.json eval/000000.npy eval/000000.png
eval/000002.npy eval/000002.png eval/prompts.json metrics.jsonl pipeline.json pipeline/model_index.json report.html
samples/000000.json samples/000000.png best/2/files.json lock"""


def test_a_run_in_a_bucket(tmp_path, monkeypatch):
    """Its files, and the same numbers again after its newest checkpoint lost its commit."""
    mount(monkeypatch, tmp_path)
    monkeypatch.setattr(claims, "BEAT", 0.2)
    monkeypatch.chdir(tmp_path)
    config = small_config(iterations=2)
    config.lora.update(rank=2, alpha=2.0)
    config.checkpoint.every, config.export.kind = 1, "pipeline"
    folder, root = loop.train(config, "gs://bucket/run"), tmp_path / "bucket/run"
    assert str(folder) == "gs://bucket/run/pipeline" and not (tmp_path / "gs:").exists()
    assert {name for name in LEFT.split() if not (root / name).exists()} == {"lock"}  # given back
    assert list((root / "tensorboard").iterdir()) and not list(root.glob("*.parts"))
    file = "transformer/diffusion_pytorch_model.safetensors"
    rows, weights = metrics.read("gs://bucket/run"), (root / "pipeline" / file).read_bytes()
    assert [r["iteration"] for r in rows] == [0, 1, 2]
    report_command.main(["gs://bucket/run", "--out", "gs://bucket/report.html"])
    assert (tmp_path / "bucket/report.html").exists()

    (root / "checkpoints/2/commit_success.txt").unlink()
    with pytest.warns(UserWarning, match=r"passed over \(2: it was never finished\) for the checkpoint of iteration 1"):
        loop.train(config, "gs://bucket/run")
    numbers = lambda rows: [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]
    assert numbers(metrics.read("gs://bucket/run")) == numbers(rows)
    assert (root / "pipeline" / file).read_bytes() == weights
    again = export.from_checkpoint(place("gs://bucket/run"), place("gs://bucket/again"))
    assert (tmp_path / "bucket/again/pipeline" / file).read_bytes() == weights
    assert json.loads((again / "model_index.json").read_text())["_class_name"] == "FluxPipeline"
    with pytest.raises(UserError, match="holds another run:\n  seed: 0 there, 1 now"):
        loop.train(small_config(iterations=2, seed=1, lora=config.lora, export=config.export), "gs://bucket/run")


def test_a_bucket_where_nothing_was_finished(tmp_path, monkeypatch):
    mount(monkeypatch, tmp_path)
    (tmp_path / "bucket/run/checkpoints/2/state").mkdir(parents=True)
    (tmp_path / "bucket/run/checkpoints/2/state/_METADATA").write_text("{")
    series = checkpoint.Series(place("gs://bucket/run/checkpoints"), 3)
    with pytest.warns(UserWarning, match=r"passed over \(2: it was never finished\) for the pipeline's weights"):
        assert series.newest({}, discard=True) is None
    assert series.steps() == []
    series.close()
