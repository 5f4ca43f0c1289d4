"""What is checked before a weight is read, and what a run of few settings leaves out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax import pipelines
from mvgrpo_jax.core.precision import MasterState
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.run import build, checkpoint, loop, metrics
from tests.runs import small_config


@pytest.fixture
def no_weights(monkeypatch):
    """Reading weights fails the test."""

    def read(*arguments, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr(pipelines, "read", read)
    monkeypatch.setattr(pipelines.flux, "import_params", read)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train.view_chunk": 2}, "view_chunk must divide all views .*= 3.; got 2"),
        ({"train.state_chunk": 2}, "state_chunk 2 must divide the number of states, 1"),
        ({"train.minibatches": 2, "prompts_per_iteration": 3}, "minibatches"),
        ({"mesh.fsdp": 64}, "mesh .* needs 64 devices, there are 8"),
        ({"mesh.devices": 16}, "config.mesh.devices is 16, but 1 processes x 8 devices are there"),
        ({"prompts_per_iteration": 999}, "only 128 training prompts"),
        ({"prompts.train": "/nowhere.txt"}, "/nowhere.txt does not exist"),
        ({"views.enhancer": "offline", "views.file": "/nowhere.jsonl"}, "/nowhere.jsonl' does not exist"),
        ({"lora.rank": 2, "lora.start": "/nowhere.safetensors"}, "no such file"),
        ({"image.height": 30}, "multiples of 8"),
        ({"pipeline": "/nowhere"}, "/nowhere/model_index.json: no such file"),
        ({"sampling.steps": 0}, "config.sampling.steps must be an integer from 1"),
    ],
)
def test_mistakes_are_found_before_weights_are_read(no_weights, changes, message):
    config = small_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        build.build(config)


def test_a_dry_run_says_what_an_iteration_costs_and_on_what_it_runs(no_weights):
    config = small_config()
    config.mesh.fsdp = 2
    text = loop.dry_run(config)
    assert "mvgrpo, an iteration: 2 prompts x 6 pictures = 12 samples" in text and "1 of the optimiser" in text
    assert "mesh: data 1 x fsdp 2 x tensor 1, 2 x cpu, 1 processes x 8 devices (as config.mesh says)" in text
    assert "mesh: data 1 x fsdp 1 x tensor 1, 1 x cpu, 1 processes x 8 devices (one CPU" in loop.dry_run(small_config())


@pytest.mark.parametrize(
    "changes", [{"prompts_per_iteration": 3}, {"train.minibatches": 2}, {"train.prompt_chunk": 1}], ids=lambda c: next(iter(c))
)
def test_prompts_that_do_not_divide_over_the_mesh_are_shared(no_weights, changes):
    """By an iteration or by one of its microbatches."""
    config = small_config()
    config.mesh.fsdp = 2
    config.update_from_flattened_dict(changes)
    outlined = build.outline(config)
    outlined.close()
    assert (rules.parts("prompts", outlined.mesh), rules.parts("lanes", outlined.mesh)) == (1, 2)
    assert outlined.programs.views == 4 and outlined.programs.updater.spread_views  # three views, filled up
    assert "2 devices share each prompt of a microbatch" in outlined.describe()


@pytest.mark.nightly
def test_nothing_is_evaluated_drawn_or_saved_in_between_where_that_is_off(tmp_path):
    """The end is saved all the same: the same command then has nothing left to do."""
    config = small_config(iterations=3)
    config.eval.every = config.checkpoint.every = config.log.images_every = 0
    config.prompts.eval = "/nowhere.txt"  # which nobody reads
    loop.train(config, tmp_path)
    assert not (tmp_path / "samples").exists() and not (tmp_path / "eval").exists()
    assert not list((tmp_path / "best").iterdir())
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3"}
    rows = metrics.read(tmp_path)
    assert [r["iteration"] for r in rows] == [0, 1, 2] and not any(k.startswith("eval/") for r in rows for k in r)
    assert (tmp_path / "report.html").exists() and (tmp_path / "pipeline" / "model_index.json").exists()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    loop.train(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.nightly
def test_bfloat16_parameters_train_like_float32_ones(tmp_path):
    """Small steps that bfloat16 weights would round away: the masters move as a float32 run's parameters do, the parameters
    are the masters rounded, the average is float32, and the export holds the masters."""
    ends = {}
    for dtype in ("float32", "bfloat16"):
        config = small_config(iterations=3)
        config.train.param_dtype, config.optimizer.learning_rate, config.optimizer.warmup = dtype, 2e-6, 0
        config.eval.every = 0
        config.ema.decay = 0.0
        config.export.dtype = "float32"
        folder = loop.train(config, tmp_path / dtype)
        run, initial = build.build(config)
        shapes = jax.eval_shape(run.programs.updater.init, initial)
        state, _ = checkpoint.Checkpoints(tmp_path / dtype, 3).restore(
            3, checkpoint.abstract(shapes, run.programs.state_shardings)
        )
        run.close()
        ends[dtype] = state, pipelines.load(folder).params["transformer"], initial
    (exact, _, start), (rounded, exported_masters, _) = ends["float32"], ends["bfloat16"]
    assert isinstance(rounded.opt_state, MasterState)
    for leaf in jax.tree.leaves(rounded.opt_state):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    for p, m in zip(jax.tree.leaves(rounded.params), jax.tree.leaves(rounded.opt_state.masters), strict=True):
        assert p.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(p), np.asarray(m.astype(jnp.bfloat16)))
    changes = []
    for m, p, s in zip(*map(jax.tree.leaves, (rounded.opt_state.masters, exact.params, start)), strict=True):
        changes.append((np.abs(np.asarray(m) - np.asarray(s)).max(), np.abs(np.asarray(p) - np.asarray(s)).max()))
    assert all(0 < a < 1e-5 for a, _ in changes) and all(0 < b < 1e-5 for _, b in changes)
    for a, m in zip(jax.tree.leaves(exported_masters), jax.tree.leaves(rounded.opt_state.masters), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(m))
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["train"]["param_dtype"] == "bfloat16"


def test_somebody_elses_files_in_the_way_of_the_export_are_found_at_the_start(no_weights, tmp_path):
    (tmp_path / "pipeline" / "transformer").mkdir(parents=True)
    (tmp_path / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="transformer: has files that this program did not write.*nothing was replaced"):
        loop.train(small_config(), tmp_path)
