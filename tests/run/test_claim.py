"""Which configs go on with a run, and one job at a time in a workdir."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs import common
from mvgrpo_jax import pipelines
from mvgrpo_jax.configuration import checks, continuation
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.pipelines.identity import identity
from mvgrpo_jax.run.claim import claim
from tests.configuration.edited import edited

ROOT = Path(__file__).parents[2]


def as_json(config) -> dict:
    return json.loads(config.to_json_best_effort())


def test_every_key_is_in_one_class():
    """Also those that judges may have; a new key needs a class."""
    known = continuation.flatten(as_json(common.get_config()))
    sections = tuple(key for key in continuation.DECIDES if key.endswith("."))
    for key in known | dict.fromkeys(checks.optional(common.get_config())):
        named = [key in continuation.FREE, key in continuation.DECIDES or key.startswith(sections)]
        assert sum(named) == 1, f"{key}: say in configuration/continuation.py whether it may change between a run and its end"
    stale = {key for key in (*continuation.FREE, *continuation.DECIDES) if not key.endswith(".")} - known.keys()
    assert not stale, f"no such keys: {stale}"


OTHER = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 1.0, str: lambda v: v + "x", list: lambda v: [*v, 1]}


def test_a_key_that_decides_is_refused_and_a_free_one_is_not(tmp_path):
    """Every key of the default config in turn."""
    old = as_json(common.get_config())
    for key, value in continuation.flatten(old).items():
        new = json.loads(json.dumps(old))
        node = new
        *path, last = key.split(".")
        for name in path:
            node = node[name]
        node[last] = OTHER[type(value)](value)
        foreign = key.startswith("algorithm.") and not key.startswith(("algorithm.name", "algorithm.mvgrpo."))
        said = continuation.changes(old, new)
        assert said == [] if key in continuation.FREE or foreign or key.endswith(".chunk") else said[0].startswith(f"{key}: ")


def test_a_run_of_an_earlier_version_goes_on():
    """Its config lacks keys that came later, which then stand for what was done; another value is a change."""
    new = as_json(common.get_config())
    old = json.loads(json.dumps(new))
    for key in continuation.LATER:
        section, _, name = key.rpartition(".")
        old[section].pop(name)
        assert continuation.flatten(new)[key] == continuation.LATER[key], "the default must be what was done"
    assert continuation.changes(old, new) == []
    new["train"]["async_steps"] = 1
    assert continuation.changes(old, new) == ["train.async_steps: 0 there, 1 now"]


@pytest.mark.parametrize(
    "changes",
    [
        {"train.view_chunk": 1, "train.remat": "full", "train.attention": "xla", "train.prompt_chunk": 8, "train.unroll": 2},
        {"text.memory_mb": 10.0, "export.at_checkpoints": True, "export.dtype": "bfloat16", "mesh.fsdp": 8},
        {"prompts.eval_count": 3, "eval.steps": 4, "algorithm.mixgrpo.size": 3, "iterations": 9, "judges.clip.chunk": 8},
    ],
)
def test_what_changes_no_result_may_change(tmp_path, changes):
    with claim(tmp_path, as_json(edited({}))):
        pass
    with claim(tmp_path, as_json(edited(changes))):
        pass
    assert json.loads((tmp_path / "config.json").read_text()) == as_json(edited(changes))  # what the rest of the run did


def test_what_changes_a_result_is_named(tmp_path):
    with claim(tmp_path, as_json(edited({}))):
        pass
    before = (tmp_path / "config.json").read_text()
    message = (
        "holds another run:\n  eval.judge: 'scene' there, 'clip' now\n  new_key: not set there, 1 now\n"
        "  optimizer.learning_rate: 0.0001 there, 0.01 now"
    )
    with pytest.raises(UserError, match=message):
        with claim(tmp_path, as_json(edited({"optimizer.learning_rate": 1e-2, "eval.judge": "clip"})) | {"new_key": 1}):
            pass
    assert (tmp_path / "config.json").read_text() == before


def test_a_pipeline_may_move_but_not_change(tmp_path):
    """Its large files are compared by pieces that reach both ends."""
    first, second, run = tmp_path / "a", tmp_path / "b", tmp_path / "run"
    shutil.copytree(pipelines.EMBEDDED, first)
    shutil.copytree(first, second)
    assert identity(first) == identity(second) == identity("flux-nano") and identity(tmp_path / "none") == ""
    config = as_json(common.get_config())
    for folder in (first, second):
        with claim(run, config | {"pipeline": str(folder)}):
            pass
    file = first / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=f"\n  pipeline: '{second}' there, '{first}' now"):
        with claim(run, config | {"pipeline": str(first)}):
            pass
    shutil.copytree(first, second, dirs_exist_ok=True)
    with pytest.raises(UserError, match=f"pipeline: {second} holds other weights than it did then"):
        with claim(run, config | {"pipeline": str(second)}):
            pass


def test_a_large_file_is_read_in_pieces(tmp_path, monkeypatch):
    from mvgrpo_jax.pipelines import identity as module

    monkeypatch.setattr(module, "PIECES", 3)
    monkeypatch.setattr(module, "PIECE", 10)
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    seen = set()
    for changed in (None, 0, 9, 500, 999, 300):  # pieces 0-9, 495-504 and 990-999
        content = bytearray(1000)
        if changed is not None:
            content[changed] = 1
        (tmp_path / "vae" / "model.safetensors").write_bytes(content)
        seen.add(identity(tmp_path))
    assert len(seen) == 5


def test_a_second_process_in_the_workdir_is_refused(tmp_path):
    hold = "import sys, pathlib; from mvgrpo_jax.storage import hold; held = hold(pathlib.Path(sys.argv[1])); "
    first = [sys.executable, "-c", hold + "print('held', flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(first, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {owner.pid} on .* is at work in {tmp_path}; two would overwrite"):
            with claim(tmp_path, {"a": 1}):
                pass
        owner.kill()  # a lock does not outlive its process, however it ended
        owner.wait()
    with claim(tmp_path, {"a": 1}) as still_ours:
        still_ours()


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--workdir .*/file/run cannot be written"):
        with claim(tmp_path / "file" / "run", {"a": 1}):
            pass
