"""Scheduler configs against the sigmas and pictures of diffusers' own scheduler and pipeline."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

from mvgrpo_jax import pipelines, sample
from mvgrpo_jax.core import schedules
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.pipelines.scheduler import Scheduler

SPACINGS = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}]
DYNAMIC = {"use_dynamic_shifting": True, "shift": 3.0}
SHIFTS = [
    {"shift": 1.0},
    {"shift": 3.0, "num_train_timesteps": 500},
    DYNAMIC,
    DYNAMIC | {"base_shift": 0.3, "max_shift": 1.5, "base_image_seq_len": 64, "max_image_seq_len": 1024},
    DYNAMIC | {"time_shift_type": "linear"},
]
ENDS = [{}, {"shift_terminal": 0.1}, {"invert_sigmas": True}, {"shift_terminal": 0.02, "invert_sigmas": True}]


def peer_sigmas(config: dict, steps: int, tokens: int) -> np.ndarray:
    """What FluxPipeline.__call__ does."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    get = scheduler.config.get
    lengths = get("base_image_seq_len", 256), get("max_image_seq_len", 4096)
    mu = calculate_shift(tokens, *lengths, get("base_shift", 0.5), get("max_shift", 1.15))
    retrieve_timesteps(scheduler, steps, "cpu", sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler.sigmas.numpy()


@pytest.mark.parametrize("end", ENDS, ids=str)
@pytest.mark.parametrize("shift", SHIFTS, ids=str)
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_sigmas_are_diffusers(spacing, shift, end):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.42.1"} | spacing | shift | end
    scheduler = Scheduler.read(config)
    for steps in (1, 2, 5, 28, 50):
        for tokens in (16, 256, 1024, 4096, 6144):
            if steps == 1 and "shift_terminal" in end:
                continue
            got = scheduler.sigmas(steps, tokens)
            assert got.shape == (steps + 1,)
            assert got[0] == ("invert_sigmas" not in end)
            np.testing.assert_allclose(got, peer_sigmas(config, steps, tokens), rtol=0, atol=1e-6)


def test_a_config_as_diffusers_saves_it(tmp_path):
    FlowMatchEulerDiscreteScheduler(shift=2.5, use_beta_sigmas=True).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert config["shift_terminal"] is None
    np.testing.assert_allclose(Scheduler.read(config).sigmas(6, 64), peer_sigmas(config, 6, 64), atol=1e-6)


def test_shift_alone_is_the_static_grid():
    np.testing.assert_allclose(Scheduler.read({"shift": 3.0}).sigmas(7, 16), schedules.static(7, 3.0), atol=1e-7)
    assert Scheduler.read({}) == Scheduler()


def test_keys_that_diffusers_ignores():
    with pytest.warns(UserWarning, match="algorithm_type, prediction_type ignored"):
        assert Scheduler.read({"prediction_type": "flow", "algorithm_type": "x", "solver_order": None}) == Scheduler()


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "scheduler FlowMatchHeunDiscreteScheduler is not supported"),
        (
            {"_class_name": "DPMSolverMultistepScheduler"},
            "DPMSolverMultistepScheduler is not supported; expected FlowMatchEuler",
        ),
        ({"stochastic_sampling": True}, "stochastic_sampling is not supported"),
        ({"use_karras_sigmas": True, "sigma_min": 0.1}, "sigma_min = 0.1 is not an option"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas = True is not an option"),
        ({"use_lu_lambdas": True}, "use_lu_lambdas = True is not an option"),
        ({"flow_shift": 3.0}, "flow_shift = 3.0 is not an option"),
        ({"use_karas_sigmas": True}, "Did you mean 'use_karras_sigmas'"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "only one of .* found use_karras_sigmas, use_beta_sigmas"),
        ({"time_shift_type": "cubic"}, "time_shift_type must be one of exponential, linear, found 'cubic'"),
        ({"shift": 0.0}, "shift must be positive"),
        ({"shift": None}, "shift must be a number, found None"),
        ({"shift": float("nan")}, "shift must be a number, found nan"),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be positive"),
        ({"num_train_timesteps": 999.5}, "num_train_timesteps must be a whole number"),
        ({"use_beta_sigmas": "yes"}, "use_beta_sigmas must be true or false, found 'yes'"),
        ({"shift_terminal": 1.0}, "shift_terminal must be at least 0 .* below 1"),
        ({"base_image_seq_len": 4096}, "base_image_seq_len and max_image_seq_len must differ"),
    ],
)
def test_what_is_not_supported_is_named(config, expected):
    with pytest.raises(UserError, match=expected):
        Scheduler.read(config)


def test_grids_that_do_not_exist():
    with pytest.raises(UserError, match="one step cannot end at the scheduler's shift_terminal 0.1"):
        Scheduler(shift_terminal=0.1).sigmas(1, 64)
    with pytest.raises(UserError, match="linear time shift is -.* for 16 image tokens"):
        Scheduler(use_dynamic_shifting=True, time_shift_type="linear", base_shift=-0.5).sigmas(4, 16)


def with_scheduler(folder, target, config: dict):
    shutil.copytree(folder, target)
    path = target / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


def test_the_class_that_model_index_names(random_pipeline, tmp_path):
    folder = with_scheduler(random_pipeline("narrow"), tmp_path / "other", {})
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchHeunDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="model_index.json: the scheduler FlowMatchHeunDiscreteScheduler is not supported"):
        pipelines.describe(folder)


@pytest.mark.parametrize("config", [{"num_train_timesteps": 400, "use_karras_sigmas": True}, {"invert_sigmas": True}], ids=str)
def test_pictures_are_diffusers_pictures(random_pipeline, tmp_path, config):
    """The network's time too: FluxPipeline hands over sigma * num_train_timesteps / 1000."""
    folder = with_scheduler(random_pipeline("narrow"), tmp_path / "pipeline", config)
    peer = FluxPipeline.from_pretrained(folder)
    peer.set_progress_bar_config(disable=True)
    latents = np.random.default_rng(0).normal(size=(1, 9, 64)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    options = dict(height=12, width=12, num_inference_steps=4, guidance_scale=3.5, max_sequence_length=16, output_type="np")
    with torch.no_grad():
        want = peer("a cross", latents=torch.tensor(latents), **options).images
    flags = f"--pipeline {folder} --height 12 --width 12 --steps 4 --max-sequence-length 16 --save-npy --out {tmp_path}/out"
    sample.main([*flags.split(), "--latents", str(tmp_path / "latents.npy"), "--prompt", "a cross"])
    np.testing.assert_allclose(np.load(tmp_path / "out" / "images.npy"), want, atol=1e-3)


def test_noise_needs_a_grid_that_falls(random_pipeline, tmp_path, capsys):
    folder = with_scheduler(random_pipeline("narrow"), tmp_path / "pipeline", {"invert_sigmas": True})
    with pytest.raises(SystemExit):
        sample.main(["--pipeline", str(folder), "--prompt", "a", "--solver", "sde", "--out", str(tmp_path / "out")])
    assert "invert_sigmas" in capsys.readouterr().err
