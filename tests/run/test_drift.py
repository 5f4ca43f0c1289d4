"""Probability drift: its numbers against the kernel's own, its files, its mistakes."""

import csv
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mvgrpo_jax import drift as command
from mvgrpo_jax.core import rollout
from mvgrpo_jax.core.structs import Condition
from mvgrpo_jax.prompts import load_prompts, stream
from mvgrpo_jax.run import drift
from mvgrpo_jax.run.build import build
from mvgrpo_jax.run.drawing import draw
from mvgrpo_jax.run.metrics import Clock
from tests.runs import small_config

SMALL = ["prompts_per_iteration=2", "group_size=3", "sampling.steps=4", "prompts.eval_count=2", "prompts.train_count=4"]
SMALL += ["algorithm.mvgrpo.trained_steps=(0, 2)", "train.view_chunk=2"]  # it divides the views of training, not the drift's 3


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder, captions file) of a finished drift command."""
    folder = tmp_path_factory.mktemp("drift")
    config = small_config()
    prompts = load_prompts(config.prompts.train, 4, held_out=False)
    lines = [
        {"prompt": p, "captions": [{"text": f"{p} {w}", "operation": "addition"} for w in ("here", "there")]} for p in prompts
    ]
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [f"--config.{w}" for w in SMALL]
    options = ["--config", "configs/flux_nano.py", *words, "--offline", str(file), "--pairs", "20", "--views", "2"]
    command.main([*options, "--out", str(folder / "out")])
    return folder / "out", file


@pytest.mark.nightly
def test_what_it_leaves_behind(done):
    out, _ = done
    rows = list(csv.DictReader((out / "drift.csv").open()))
    summary = json.loads((out / "drift.json").read_text())
    assert set(summary) == {"online", "offline", "unrelated"} and (out / "drift.png").stat().st_size > 10_000
    for kind, steps in summary.items():
        assert set(steps) == {"0", "2"}
        for step, found in steps.items():
            values = [float(r["drift"]) for r in rows if (r["kind"], r["step"]) == (kind, step)]
            assert found["pairs"] == len(values) >= 20
            assert found["mean"] == pytest.approx(np.mean(values)) and found["p90"] == pytest.approx(np.percentile(values, 90))
    # A caption of another prompt's pictures moves the probability further than one of the same prompt.
    assert summary["unrelated"]["2"]["mean"] > summary["offline"]["2"]["mean"]


@pytest.mark.nightly
def test_the_drift_is_the_difference_of_log_densities(tmp_path):
    config = small_config()
    run, initial = build(config)
    with jax.set_mesh(run.mesh):
        prompts = [str(p) for p in next(stream(run.prompts, config.prompts_per_iteration, config.seed))]
        condition = run.text.encode_prompts(prompts)
        trajectory, _ = draw(run, 0, initial, condition, Clock())
        t = trajectory.transitions
        captions = [[[p] * 2 for p in prompts], [["a red circle", None], ["a blue square"] * 2]]
        got = drift.drifts(run, initial, t, captions)
        assert got.shape == (1, 2, 2, 3) and np.isnan(got[0, 0, 1]).all() and np.isfinite(got[0, 1]).all()
        for p, text in ((0, "a red circle"), (1, "a blue square")):
            found = []
            for words in (prompts[p], text):
                other = Condition(*(a[:1] for a in run.text.encode_items([words])))
                v = run.programs.policy.velocity(initial, t.x_t[p : p + 1, 0], t.steps.s[p : p + 1, 0], other)
                columns = [a[p, 0][:, None, None] for a in t.steps[:3]]
                mean, std = run.programs.algorithm.kernel.moments(t.x_t[p, 0], v[0], *columns)
                found.append(rollout.log_density(run.programs.algorithm.kernel, t.x_next[p, 0], mean, std[..., 0, 0]))
            np.testing.assert_allclose(got[0, p, 0], np.abs(found[1] - found[0]), atol=2e-5)
    run.close()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--pairs", "0"], "--pairs and --views must be at least 1"),
        (
            ["--config.views.enhancer=offline", "--config.views.file={tmp}/captions.jsonl"],
            "set config.views.enhancer to embedded or vlm",
        ),
        (["--checkpoint", "{tmp}/nothing"], "keeps no checkpoint; there are: none"),
        (["--best"], "give its workdir as --checkpoint"),
        (
            ["--config.algorithm.name=branchgrpo", "--config.group_size=4", "--config.train.view_chunk=0"],
            "has no drift by step",
        ),
        (["--config.algorithm.name=diffusion_nft", "--config.train.view_chunk=0"], "has no transition densities"),
        (["--offline", "{tmp}/none.jsonl"], "none.jsonl"),
    ],
)
def test_mistakes(tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["drift"])
    own = [w.format(tmp=tmp_path) for w in words]
    small = [f"--config.{w}" for w in SMALL]
    with pytest.raises(SystemExit) as stop:
        command.main(["--config", "configs/flux_nano.py", *small, "--out", str(tmp_path / "out"), *own])
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not Path(tmp_path / "nothing" / "checkpoints").exists()
