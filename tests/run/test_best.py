"""best/: what evaluation liked most, the last one included, as evaluation used it."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import evaluate, sample
from mvgrpo_jax.convert.sources import TensorFiles
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.run import drift, evaluation, export, loop, sampling, trained
from tests.runs import small_config

SCORES = {0: 0.95, 1: 0.2, 2: 0.9}  # before training, after one iteration and after two


def config(**changes):
    c = small_config(iterations=2, group_size=2, **changes)
    c.views.count, c.checkpoint.every, c.eval.every, c.rewards.clip = 1, 1, 1, 0.0
    c.lora.update(rank=2, alpha=2.0)
    c.optimizer.warmup = 0
    return c


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, {iteration: weights that its evaluation used}) of a run whose evaluations give SCORES."""
    folder, used = tmp_path_factory.mktemp("run"), []

    def judged(self, params, vae, between):
        used.append(jax.tree.map(np.asarray, params))
        score = np.full(3, SCORES[len(used) - 1], np.float32)
        return dict(enumerate(np.zeros((3, 32, 32, 3), np.uint8))), {"scene": score, "clip": score}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.Evaluation, "run", judged)
        loop.train(config(), folder)
    return folder, used


def kernel(params, name="lora_b"):
    return np.asarray(functools.reduce(dict.__getitem__, ("transformer_blocks", "attn", "to_q", name), params))


@pytest.mark.nightly
def test_the_last_evaluation_counts_and_its_weights_are_kept(run):
    folder, used = run
    assert [p.name for p in (folder / "best").iterdir()] == ["2"]
    best = trained.read(folder, make_mesh(fsdp=8), best=True)  # of one device, read on eight
    assert best.step == 2
    np.testing.assert_array_equal(kernel(best.weights), kernel(used[2]))
    assert np.abs(kernel(used[2]) - kernel(used[1])).max() > 0
    bytes_of = lambda path: sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert bytes_of(folder / "best/2/state") < 0.5 * bytes_of(folder / "checkpoints/2/state")


@pytest.mark.nightly
def test_commands_read_the_best(run, tmp_path, monkeypatch):
    folder, used = run
    sampled = sampling.load_trained(folder, best=True).params["transformer"]
    np.testing.assert_array_equal(kernel(sampled), kernel(used[2]))
    np.testing.assert_array_equal(kernel(sampled, "kernel"), kernel(used[2], "kernel"))
    out = export.from_checkpoint(folder, tmp_path / "best", best=True)
    last = TensorFiles(folder / "lora" / "pytorch_lora_weights.safetensors")
    got = TensorFiles(out / "pytorch_lora_weights.safetensors")
    assert all(np.array_equal(got.read(n), last.read(n)) for n in last.names())
    monkeypatch.setattr(drift, "collect", lambda run, params, *rest: params)
    best = drift.measure(config(), tmp_path / "drift", 1, 1, trained_in=folder, best=True)
    newest = drift.measure(config(), tmp_path / "drift", 1, 1, trained_in=folder)
    np.testing.assert_array_equal(kernel(best), kernel(used[2]))
    assert np.abs(kernel(best) - kernel(newest)).max() > 0  # training samples with the weights, not with their average


@pytest.mark.nightly
def test_an_evaluation_paints_with_a_runs_weights(run, tmp_path):
    folder, _ = run
    painted = {}
    for name, words in (
        ("best", ["--workdir", str(folder), "--best"]),
        ("lora", ["--lora", str(folder / "lora")]),
        ("base", []),
    ):
        out = tmp_path / name
        evaluate.main([*words, "--count", "2", "--steps", "2", "--judge", "scene", "--out", str(out)])
        painted[name] = np.stack([np.asarray(Image.open(p)) for p in sorted((out / "pictures").iterdir())]).astype(int)
    assert np.abs(painted["best"] - painted["lora"]).max() <= 1
    assert np.abs(painted["best"] - painted["base"]).max() > 8
    settings = json.loads((tmp_path / "best" / "settings.json").read_text())
    assert (settings["step"], settings["best"]) == (2, True)


@pytest.mark.nightly
def test_a_worse_evaluation_changes_nothing_and_other_prompts_begin_anew(run, monkeypatch):
    """Gone on with for two iterations; then with other held-out prompts, whose scores cannot be compared."""
    folder, _ = run
    score = lambda value: (
        lambda self, *_: (
            {i: np.zeros((32, 32, 3), np.uint8) for i in range(len(self.prompts))},
            dict.fromkeys(("scene", "clip"), value),
        )
    )
    monkeypatch.setattr(evaluation.Evaluation, "run", score(np.full(3, 0.5)))
    loop.train(changed(iterations=3), folder)
    assert [p.name for p in (folder / "best").iterdir()] == ["2"]
    assert len(list((folder / "eval").glob("*.npy"))) == 4
    loop.train(changed(iterations=4, eval_count=2), folder)
    assert [p.name for p in (folder / "best").iterdir()] == ["3"]  # the first that these prompts judged
    assert len(json.loads((folder / "eval/prompts.json").read_text())) == 2
    assert sorted(p.stem for p in (folder / "eval").glob("*.npy")) == ["000003", "000004"]


def changed(iterations, eval_count=3):
    c = config()
    c.iterations, c.prompts.eval_count = iterations, eval_count
    return c


@pytest.mark.parametrize(
    "words, message",
    [
        (["--best"], "give its --workdir"),
        (["--workdir", "{tmp}", "--lora", "x"], "--lora is for a pipeline"),
        (["--workdir", "{tmp}", "--best"], "config.json: no such file"),
        (["--workdir", "s3://bucket/run"], "s3:// does not work here"),
    ],
)
def test_mistakes(tmp_path, words, message, capsys):
    with pytest.raises(SystemExit):
        sample.main([*(w.format(tmp=tmp_path) for w in words), "--prompt", "a", "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


@pytest.mark.nightly
def test_weights_that_are_not_there(run, tmp_path):
    with pytest.raises(UserError, match="keeps no checkpoint of iteration 7; there are: "):
        export.from_checkpoint(run[0], tmp_path, 7)
    with pytest.raises(UserError, match="give one of --best and --step"):
        export.from_checkpoint(run[0], tmp_path, 1, best=True)
