"""What trackers write without a network, read back by their own readers or by the format of their files."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from tests.run.trackers import jobs

BLOCK = 32768  # of a log in LevelDB's format, which W&B's files are behind a head of 7 bytes


def records(path):
    """The records of a .wandb file: parts behind heads of checksum, length and kind (1 whole, 2 first, 3 middle, 4 last)."""
    from wandb.proto import wandb_internal_pb2

    data, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        held, at = held + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(held)
            held = b""


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("WANDB_MODE", raising=False)
    workdir = tmp_path / "run of mine"
    identity = jobs.two_parts(workdir, "wandb")
    logs = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert logs and {path.stem for path in logs} == {f"run-{identity['wandb']}"}, "a continued run is another run"
    found = [record for path in logs for record in records(path)]
    runs = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {(identity["wandb"], "tests", "run of mine")}
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["group_size"] == 3 and config["log.tracker.offline"] is True
    assert any(r.metric.glob_name == "*" and r.metric.step_metric == "iteration" for r in found)
    rows = [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in found
        if r.WhichOneof("record_type") == "history"
    ]
    pictures, *numbers = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
    assert numbers == [
        {"iteration": 0, "eval/clip": 0.25, "eval/reward_clip_mean": 0.25, "loss": 1.5},
        {"iteration": 1, "eval/clip": 0.5, "eval/reward_clip_mean": 0.5, "loss": -1.0},
    ]
    assert pictures["iteration"] == 0 and pictures["eval_images/captions"] == jobs.CAPTIONS
    for number, name in enumerate(pictures["eval_images/filenames"]):
        stored = np.asarray(Image.open(next(workdir.glob(f"wandb/offline-run-*/files/{name}"))))
        np.testing.assert_array_equal(stored, jobs.IMAGES[number])


def test_mlflow_without_a_server(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    identity = jobs.two_parts(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/run/mlflow/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tests"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (identity["mlflow"], "run", "FINISHED")
    assert run.data.params["group_size"] == "3" and len(run.data.params) > 100
    for name, values in (("eval/reward_clip_mean", [0.25, 0.5]), ("loss", [1.5, -1.0])):
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] == list(enumerate(values))
    folder = next((tmp_path / "run" / "mlflow" / "files").glob("*/artifacts")) / "eval_images" / "000000"
    assert json.loads((folder / "captions.json").read_text()) == {"000.png": jobs.CAPTIONS[0], "001.png": jobs.CAPTIONS[1]}
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "001.png")), jobs.IMAGES[1])


def test_swanlab_offline(tmp_path):
    pytest.importorskip("swanlab", reason="the extra swanlab is not installed")
    jobs.two_parts(tmp_path / "run", "swanlab")
    logs = list((tmp_path / "run" / "swanlab").glob("run-*/*.swanlab"))
    text = b"".join(path.read_bytes() for path in logs)
    assert all(word in text for word in (b"eval/reward_clip_mean", jobs.CAPTIONS[1].encode())) and b"gone" not in text
    stored = [np.asarray(Image.open(path)) for path in (tmp_path / "run" / "swanlab").glob("run-*/media/image/*.png")]
    assert len(stored) == 2 and all(any(np.array_equal(s, image) for s in stored) for image in jobs.IMAGES.values())


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorflow", reason="there is no TensorFlow for this Python")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    assert jobs.two_parts(tmp_path / "run", "tensorboard") == {}
    folder = tmp_path / "run" / "tensorboard"
    everything = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    for name, values in (("eval/reward_clip_mean", [0.25, 0.5]), ("loss", [1.5, -1.0])):
        got = [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in everything.Tensors(name)]
        assert got == list(enumerate(values))
    assert "gone" not in everything.Tags()["tensors"]
    (event,) = everything.Tensors("eval_images/001")
    picture = Image.open(io.BytesIO(tensor_util.make_ndarray(event.tensor_proto)[2]))
    drawn = np.asarray(picture.convert("RGB"))
    top = np.asarray(Image.fromarray(jobs.IMAGES[1]).resize((168, 224), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(drawn[6 : 6 + 224, 6 : 6 + 168], top)
    assert (drawn[6 + 224 :] < 128).any(), "no caption is beneath it"
