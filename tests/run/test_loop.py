"""Whole runs on the embedded pipeline: what they leave behind, resuming after a kill, and mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from mvgrpo_jax import export as export_command
from mvgrpo_jax import pipelines, sample
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import checkpoint, export, iteration, loop, metrics
from mvgrpo_jax.run.build import outline
from tests.processes import succeed, together
from tests.runs import leaves, numbers, small_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, config) of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("run")
    config = small_config()
    config.log.trackers = ("tensorboard",)
    loop.train(config, workdir)
    return workdir, config


def test_what_a_run_leaves_behind(finished):
    workdir, config = finished
    rows = metrics.read(workdir)
    assert [r["iteration"] for r in rows] == [0, 1, 2, 3, 4]
    first = rows[0]
    assert first["ratio/mean"] == 1.0 and first["ratio/first_update_error"] == 0.0 and first["drift/rollout"] < 1e-5
    assert {
        "reward/clip",
        "reward/scene",
        "time/rollout",
        "time/iteration",
        "grad_norm",
        "clip/low",
        "advantage/abs",
    } <= first.keys()
    assert [r["iteration"] for r in rows if "eval/scene" in r] == [0, 2, 4]
    assert (workdir / "samples" / "000000.png").exists() and (workdir / "eval" / "000004.png").exists()
    page = (workdir / "report.html").read_text()
    assert "before and after" in page and "data:image/png;base64" in page
    assert list((workdir / "tensorboard").iterdir())
    for row in (r for r in rows if "eval/scene" in r):
        kept = json.loads((workdir / "eval" / f"{row['iteration']:06d}.json").read_text())
        assert kept["prompts"] == json.loads((workdir / "eval" / "prompts.json").read_text()) and len(kept["prompts"]) == 3
        for judge in ("clip", "scene"):
            np.testing.assert_allclose(row[f"eval/{judge}"], np.mean(kept["scores"][judge]), rtol=1e-6)
            np.testing.assert_allclose(row[f"eval_std/{judge}"], np.std(kept["scores"][judge]), rtol=1e-5)


def test_trackers_get_every_number_and_evaluation(finished):
    """Read back from TensorBoard's files."""
    pytest.importorskip("tensorflow", reason="there is no TensorFlow for this Python")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    workdir, _ = finished
    rows, written = metrics.read(workdir), EventAccumulator(str(workdir / "tensorboard"), {"tensors": 0}).Reload()
    of = lambda tag: {e.step: tensor_util.make_ndarray(e.tensor_proto) for e in written.Tensors(tag)}
    for ours, theirs in (
        ("eval/clip", "eval/reward_clip_mean"),
        ("reward_std/clip", "train/reward_clip_std_mean"),
        ("loss", "loss"),
    ):
        want = {r["iteration"]: r[ours] for r in rows if ours in r}
        assert {step: float(value) for step, value in of(theirs).items()} == pytest.approx(want)
    assert all(sorted(of(f"eval_images/{i:03d}")) == [0, 2, 4] for i in range(3))
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"2", "4"}


@pytest.mark.nightly
def test_diffusers_paints_the_trained_pipelines_pictures(finished, tmp_path):
    from diffusers import FluxPipeline

    folder = finished[0] / "pipeline"
    before, after = pipelines.load("flux-nano"), pipelines.load(folder)
    moved = [
        np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max()
        for a, b in zip(jax.tree.leaves(before.params["transformer"]), jax.tree.leaves(after.params["transformer"]))
    ]
    assert max(moved) > 1e-4, "training changed nothing"
    peer = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    peer.set_progress_bar_config(disable=True)
    latents = np.random.default_rng(0).normal(size=(1, 16, 64)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    prompt, length = "a large red circle center on a white background", pipelines.text_length(after)
    with torch.no_grad():
        want = peer(
            prompt,
            height=32,
            width=32,
            num_inference_steps=4,
            guidance_scale=3.5,
            max_sequence_length=length,
            latents=torch.tensor(latents),
            output_type="np",
        ).images
    flags = f"--pipeline {folder} --steps 4 --latents {tmp_path}/latents.npy --save-npy --out {tmp_path}".split()
    sample.main([*flags, "--prompt", prompt])
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), want, atol=1e-3)


@pytest.mark.nightly
def test_adapters_are_trained_exported_and_started_from(tmp_path):
    """A LoRA run exports both layouts at its checkpoints and at its end; a run that starts from either file begins with the
    pictures that the first one ended with; its state holds adapters only."""
    first = small_config(iterations=2)
    first.lora.update(rank=4, alpha=6.0)
    first.optimizer.learning_rate, first.optimizer.warmup, first.ema.decay = 0.02, 0, 0.0
    first.algorithm.mvgrpo.kl = 0.01
    first.checkpoint.every, first.export.at_checkpoints = 1, True
    folder = loop.train(first, tmp_path / "first")
    assert folder == tmp_path / "first" / "lora" and (tmp_path / "first" / "exports" / "000001" / "lora").is_dir()
    card = (folder / "README.md").read_text()
    assert (
        "after iteration 2" in card and "scene (weight 1.0)" in card and '"rank": 4' in card and "base_model: flux-nano" in card
    )
    rows = metrics.read(tmp_path / "first")
    assert rows[0]["kl"] < 1e-9 < rows[1]["kl"] and rows[0]["ratio/mean"] == 1.0
    end = np.load(tmp_path / "first" / "eval" / "000002.npy").astype(int)
    assert np.abs(end - np.load(tmp_path / "first" / "eval" / "000000.npy")).max() > 3, "training changed no picture"
    again = tmp_path / "again"
    export_command.main(["--workdir", str(tmp_path / "first"), "--out", str(again), "--step", "1"])
    for file in ("pytorch_lora_weights.safetensors", "kohya.safetensors"):
        kept = tmp_path / "first" / "exports" / "000001" / "lora" / file
        assert (again / "lora" / file).read_bytes() == kept.read_bytes()
    with pytest.raises(UserError, match="keeps no checkpoint of iteration 7; there are: 1, 2"):
        export.from_checkpoint(tmp_path / "first", again, 7)
    for layout in ("pytorch_lora_weights", "kohya"):
        second = small_config(iterations=1)
        second.lora.update(rank=5, alpha=2.0, start=str(folder / f"{layout}.safetensors"))
        second.export.kind = "pipeline"
        merged = loop.train(second, tmp_path / layout)
        begin = np.load(tmp_path / layout / "eval" / "000000.npy").astype(int)
        assert np.abs(begin - end).max() <= 1
    assert pipelines.load(merged).flux_config == pipelines.load("flux-nano").flux_config
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: other\nlicense_name: some-licence\n---\n# Base\n")
    assert export.licence(tmp_path / "base") == ["license: other", "license_name: some-licence"]


TOGETHER = """
from mvgrpo_jax.run import loop
from tests.runs import small_config
config = small_config(iterations=2)
config.mesh.fsdp = 2
loop.train(config, ARGUMENTS[0])
"""


@pytest.mark.nightly
def test_a_run_of_two_processes_is_the_run_of_one(finished, tmp_path, capsys):
    """Parameters and prompts split over both for two iterations, then gone on with by one. One of them writes and prints."""
    one, config = finished
    outputs = succeed(together(TOGETHER, str(tmp_path / "two")))
    assert "samples" in outputs[0] and all(line.startswith("[Gloo]") for line in outputs[1].splitlines())
    for name in ("pipeline/model_index.json", "report.html", "eval/000002.png", "samples/000000.png"):
        assert (tmp_path / "two" / name).exists(), name
    capsys.readouterr()
    loop.train(config, tmp_path / "two")
    assert "going on from iteration 2" in capsys.readouterr().out
    rows = metrics.read(one), metrics.read(tmp_path / "two")
    assert [r["iteration"] for r in rows[1]] == [0, 1, 2, 3, 4]
    for single, both in zip(*rows, strict=True):
        for key in ("reward/scene", "reward_views/scene", "loss", "grad_norm", "advantage/abs"):
            near = 2e-4 if key == "loss" else 1e-5  # at ratio 1 the loss is the mean advantage, nothing but rounding
            assert single.get(key, 0.0) == pytest.approx(both.get(key, 0.0), rel=2e-3, abs=near), key


@pytest.mark.nightly
def test_a_run_on_a_mesh_is_the_run_on_one_device(finished, tmp_path):
    """fsdp 2 x tensor 2, three held-out prompts that do not divide: rewards, evaluation and loss agree to rounding."""
    config = small_config(iterations=2)
    config.mesh.update(fsdp=2, tensor=2)
    loop.train(config, tmp_path)
    one, four = metrics.read(finished[0]), metrics.read(tmp_path)
    assert [r["iteration"] for r in four] == [0, 1, 2] and "eval/scene" in four[2]
    for single, both in zip(one, four):
        for key in ("reward/scene", "eval/scene", "loss", "grad_norm", "advantage/abs"):
            if both["iteration"] == config.iterations and not key.startswith("eval/"):
                assert key not in both  # the longer run goes on training here
                continue
            assert (key in single) == (key in both)
            assert single.get(key, 0.0) == pytest.approx(both.get(key, 0.0), rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lora.start": "/nowhere.safetensors", "lora.rank": 2}, "no such file"),
        ({"lora.start": "/nowhere.safetensors"}, "config.lora.rank is 0"),
        ({"export.kind": "lora"}, "no adapters are trained"),
        ({"export.kind": "folder"}, "config.export.kind must be one of"),
        ({"export.dtype": "int8"}, "config.export.dtype must be one of .*; got 'int8'"),
        ({"lora.rank": 2, "lora.targets": ("blocks",)}, "matches no layer"),
    ],
)
def test_adapter_settings_that_cannot_work(tmp_path, changes, message):
    config = small_config()
    for key, value in changes.items():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        loop.train(config, tmp_path)


def command(workdir, *flags: str) -> list[str]:
    base = ["--config=configs/flux_nano.py", f"--workdir={workdir}", "--compilation_cache=" + str(ROOT / ".cache" / "jax")]
    return [sys.executable, "-m", "mvgrpo_jax.main", *base, *flags]


SMALL = [
    "--config.iterations=4",
    "--config.prompts_per_iteration=2",
    "--config.group_size=3",
    "--config.views.count=2",
    "--config.sampling.steps=4",
    "--config.algorithm.mvgrpo.trained_steps=(0,1)",
    "--config.eval.every=2",
    "--config.eval.steps=2",
    "--config.prompts.eval_count=3",
    "--config.checkpoint.every=2",
    "--config.ema.decay=0.5",
    "--config.optimizer.learning_rate=1e-3",
    "--config.rewards.clip=1.0",
    "--config.log.trackers=()",
]


def test_a_killed_run_goes_on_bit_for_bit(finished, tmp_path, capsys):
    """SIGKILL after the checkpoint of iteration 2, then the same config again: the end is the uninterrupted run's."""
    whole, config = finished
    workdir = tmp_path / "killed"
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"]}
    process = subprocess.Popen(command(workdir, *SMALL), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 400
    while not (workdir / "checkpoints" / "2").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert (workdir / "checkpoints" / "2").exists(), errors
    if process.returncode == 0:
        pytest.fail("the run ended before it could be killed: give it more iterations")
    assert not (workdir / "pipeline" / "model_index.json").exists()

    loop.train(small_config(), workdir)
    assert "going on from iteration 2" in capsys.readouterr().out
    want, want_data = leaves(whole, 4, config)
    got, got_data = leaves(workdir, 4, config)
    assert got_data["stream"] == want_data["stream"]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert numbers(workdir) == numbers(whole)


MISTAKES = {
    "--config.grop_size=4": "unknown config key 'grop_size'. Did you mean 'group_size'?",
    "--config.optimizer.lerning_rate=1": "Did you mean 'optimizer.learning_rate'?",
    "--config.iterations=many": "--config.iterations=many: expected int (default 60)",
    "--config.prompts.train=/nowhere.txt": "/nowhere.txt does not exist",
    "--config.algorithm.name=mvgrp": "Did you mean 'mvgrpo'?",
}
# One command after the other: the status and the errors of each.
COMMANDS = """
import contextlib, io, json, sys
from mvgrpo_jax.main import main

ended = []
for sys.argv in json.loads(sys.argv[1]):
    status, errors = 0, io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as end:
            status = end.code
    ended.append([status, errors.getvalue()])
print(json.dumps(ended))
"""


def test_mistakes_in_the_command_line(tmp_path):
    commands = [command(tmp_path / "run", mistake)[2:] for mistake in MISTAKES]
    words = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])
    for (status, errors), (mistake, expected) in zip(ended, MISTAKES.items(), strict=True):
        assert status == 2 and expected in errors and "Traceback" not in errors, (mistake, errors)


def test_an_empty_prompt_file(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match="empty.txt is empty"):
        outline(small_config(prompts={"train": str(tmp_path / "empty.txt")}))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"rewards": {"scene": 0.0, "clip": 0.0}}, "gives every judge the weight 0"),
        ({"eval": {"judge": "clop"}}, "eval.judge 'clop' is not among"),
        ({"prompts_per_iteration": 9999}, "only 128 training prompts"),
        ({"seed": -1}, "config.seed must be an integer from 0 to 18446744073709551615; got -1"),
        ({"image": {"height": 30}}, "multiples of 8"),
        ({"train": {"update_per": "epoch"}}, "config.train.update_per must be one of iteration, timestep; got 'epoch'"),
    ],
)
def test_configs_that_cannot_run(changes, expected):
    with pytest.raises(UserError, match=expected):
        outline(small_config(**changes))


@pytest.mark.nightly
def test_one_prompt_an_iteration(tmp_path):
    """As the authors' own code on one GPU; here of a JSONL file that holds no other."""
    prompt = "a red circle on a white background"
    (tmp_path / "one.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps({"tag": "x", "prompt": prompt}).encode() + b"\r\n")
    config = small_config(
        prompts_per_iteration=1, iterations=1, prompts={"train": str(tmp_path / "one.jsonl"), "eval_count": 1}, seed=2**40
    )
    loop.train(config, tmp_path / "run")
    first = metrics.read(tmp_path / "run")[0]
    assert np.isfinite(first["loss"]) and first["reward_captions_cut/clip"] == 0
    shown = json.loads((tmp_path / "run" / "samples" / "000000.json").read_text())
    assert {row["prompt"] for row in shown["captions"]} == {prompt}


def test_too_many_scores_that_are_no_numbers_end_the_run(finished, tmp_path, monkeypatch):
    from mvgrpo_jax.nano.judge import SceneReward
    from mvgrpo_jax.rewards import Judgement

    def broken(self, images, captions):
        out = np.ones((len(images), len(captions[0])), np.float32)
        if len(captions[0]) > 1:  # in training, not in the evaluation
            out[3:, 0] = np.nan
        return Judgement(out)

    monkeypatch.setattr(SceneReward, "score", broken)
    with pytest.raises(
        UserError, match=r"iteration 0: the judge 'scene' gave no valid score for \d+ of .*max_invalid=0.1 ends"
    ):
        loop.train(small_config(judges={"scene": {"max_invalid": 0.1}}), tmp_path / "run")


@pytest.mark.nightly
def test_a_non_finite_loss_names_iteration_and_keeps_the_checkpoint(finished, tmp_path, monkeypatch):
    original = iteration.make_batch

    def poisoned(run, number, *rest):
        batch, log = original(run, number, *rest)
        poison = batch._replace(advantage=batch.advantage.at[0, 0, 0, 0].set(np.nan))
        return (poison if number == 3 else batch), log

    monkeypatch.setattr(iteration, "make_batch", poisoned)
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="iteration 3: the loss is not finite .*last checkpoint is intact"):
        loop.train(small_config(), workdir)
    assert checkpoint.Checkpoints(workdir, 3).latest() == 2
    monkeypatch.undo()
    loop.train(small_config(), workdir)
    want, got = leaves(finished[0], 4, finished[1])[0], leaves(workdir, 4, finished[1])[0]
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.nightly
def test_a_full_disk_at_checkpoint_time(tmp_path):
    """Files may not grow beyond 2 MB: the checkpoint cannot be written, the message says so, nothing half-written counts."""
    workdir = tmp_path / "run"
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); sys.argv = ['main', *sys.argv[1:]]; "
    limited += "from mvgrpo_jax.main import main; main()"
    flags = [f for f in command(workdir, *SMALL)[3:] if not f.startswith("--compilation_cache")]
    result = subprocess.run([sys.executable, "-c", limited, *flags], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 2 and "could not be written" in result.stderr and "free some space" in result.stderr, (
        result.stderr
    )
    assert checkpoint.Checkpoints(workdir, 3).latest() is None
