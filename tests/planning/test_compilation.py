"""Ahead-of-time planning: counts against the closed form, real compilers for a small config."""

import json
import math
import os
import subprocess
import sys

import jax
import pytest

from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.planning import hardware

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "text, message",
    [
        ("v7:2x2", "expected CHIP:SIZES with a chip of v5p"),
        ("h200:8", "NODESxGPUS, for example h200:2x8"),
        ("v5p", "expected CHIP:SIZES"),
        ("h100:0x8", "expected CHIP:SIZES"),
        ("h100:1x8@2", "NODESxGPUS"),
        ("v5e:4x4@0", "CHIP:SIZES@SLICES for several TPU slices"),
    ],
)
def test_unknown_topologies(text, message):
    with pytest.raises(UserError, match=message):
        hardware.parse(text)


def test_a_program_that_cannot_be_printed_is_planned_without_its_communication():
    from mvgrpo_jax.planning import compilation

    class Unprintable:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: async-update instruction should have 1 operands but sees 3\nmore")

    chip, _, _ = hardware.parse("v5p:2x2x1")
    traffic, why = compilation.traffic_of(Unprintable(), [0] * 4, chip)
    assert not traffic.inside and traffic.exposed == 0 and why.endswith("but sees 3")


def test_overrides_are_typed_and_checked():
    words = [
        "--config.lora.rank=8",
        "--config.algorithm.mvgrpo.trained_steps=(0, 2)",
        "--config.algorithm.flow_grpo.global_std=false",
    ]
    config = arguments.from_arguments("configs/flux_nano.py", words)
    assert (
        config.lora.rank == 8
        and config.algorithm.mvgrpo.trained_steps == (0, 2)
        and config.algorithm.flow_grpo.global_std is False
    )
    for word, message in (
        ("--config.lora.rnk=8", "Did you mean 'lora.rank'"),
        ("--config.lora.rank=x", "expected int"),
        ("--rank=8", "unknown argument '--rank=8'"),
    ):
        with pytest.raises(UserError, match=message):
            arguments.from_arguments("configs/flux_nano.py", [word])


SMALL = [
    "--config.prompts_per_iteration=4",
    "--config.group_size=3",
    "--config.views.count=1",
    "--config.sampling.steps=3",
    "--config.algorithm.mvgrpo.trained_steps=(0,)",
]


def plan(tmp_path, topology, *flags):
    """(exit status, stdout, stderr, figures by program) of the command in a process of its own, as compilers need."""
    path = tmp_path / "plan.json"
    command = [
        sys.executable,
        "-m",
        "mvgrpo_jax.plan",
        "--config=configs/flux_nano.py",
        f"--topology={topology}",
        f"--json={path}",
    ]
    known = os.environ["XLA_FLAGS"].replace("--xla_cpu_use_fusion_emitters=false", "")  # libtpu refuses a flag that it lacks
    done = subprocess.run([*command, *SMALL, *flags], capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": known})
    return done.returncode, done.stdout, done.stderr, json.loads(path.read_text()) if path.exists() else None


@pytest.mark.nightly
def test_a_plan_for_gpus(tmp_path):
    """cuDNN's kernel for two nodes of two H200, whose mesh is chosen: operations equal the closed form exactly, and nothing but
    gradients crosses nodes."""
    from mvgrpo_jax import pipelines
    from mvgrpo_jax.models.flux import forward_flops, text_flops

    code, out, err, facts = plan(tmp_path, "h200:2x2", "--config.train.dtype=bfloat16")
    assert code == 0, err
    assert "verdict: fits" in out and "attention cudnn" in out
    assert "mesh: {'data': 2, 'fsdp': 2, 'tensor': 1} (parameters are shared by 2 devices of a node; only gradients" in out
    programs = {p["name"]: p for p in facts["programs"]}
    assert list(programs)[:4] == ["encode_prompts", "rollout", "branch", "decode"] and "update" in programs
    pipeline = pipelines.describe("flux-nano")
    one = forward_flops(pipeline.flux_config, 16, pipelines.text_length(pipeline))
    text = text_flops(pipeline.flux_config, pipelines.text_length(pipeline))
    assert programs["rollout"]["operations"] == 4 * ((3 + 3 * 2) * (one - text) + 5 * text)
    assert 2.5 * one < programs["update"]["operations"] / (4 * 2) < 3.1 * one
    # Half of the weights come to each device once a step of the sampler (3 of the anchor, 2 of its tails); activations never
    # travel. The update gathers for forward and backward and scatters gradients in a node, then adds each half over the nodes.
    rollout, update = programs["rollout"], programs["update"]
    size = 2 * sum(math.prod(x.shape) for x in jax.tree.leaves(pipeline.transformer.shapes))  # bytes in bfloat16
    assert rollout["inside"] == pytest.approx(5 * size / 2, rel=0.02) and rollout["between"] == 0
    assert update["inside"] == pytest.approx(3 * size / 2, rel=0.05) and update["between"] == pytest.approx(size / 2, rel=0.01)
    assert (rollout["hidden"] + rollout["exposed"]) * 450e9 == pytest.approx(rollout["inside"])
    assert update["hidden"] + update["exposed"] > update["between"] / 50e9
    assert all(p["peak"] >= p["arguments"] + p["temporaries"] for p in programs.values())


@pytest.mark.nightly
def test_a_plan_for_tpus(tmp_path):
    """The Pallas kernel through libtpu for four v5e chips."""
    code, out, err, facts = plan(tmp_path, "v5e:2x2", "--config.mesh.fsdp=4", "--config.train.dtype=bfloat16")
    assert code == 0, err
    assert "attention splash" in out and any(p["temporaries"] > 0 for p in facts["programs"])


def test_a_plan_that_does_not_fit_says_what_would(monkeypatch):
    """The order of remedies, and that the first one that fits is named."""
    from mvgrpo_jax.planning import compilation, remedies
    from tests.runs import small_config

    config = small_config()
    config.mesh.data = 2
    seen = []

    def measured(config, topology, only=()):
        seen.append((config.train.remat, config.train.view_chunk, config.mesh.data))
        if config.train.view_chunk and config.mesh.data > 1:
            raise UserError("as of a setting that the mesh cannot take")
        tight = config.mesh.data > 1
        return [compilation.Cost("update", 1, 0, 0, 0, 10**12 if tight else 1, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)], None

    monkeypatch.setattr(compilation, "measure", measured)
    costs, _ = measured(config, "h200:1x8")
    assert not remedies.fits(costs, hardware.CHIPS["h200"])
    text, found = remedies.nearest(config, {"data": 2, "fsdp": 1}, "h200:1x8", costs, hardware.CHIPS["h200"])
    assert [c.peak for c in found] == [1]
    assert seen[1:] == [("full", 0, 2), ("full", 1, 2), ("full", 1, 1)]
    assert text.startswith("config.train.remat=full, config.train.view_chunk=1, config.mesh.data=1, config.mesh.fsdp=-1")


@pytest.mark.nightly
def test_the_nearest_setting_is_found_by_compiling(tmp_path):
    """The update of ten views at once is over the memory given; one after another it is not, says the compiler."""
    script = """
import dataclasses
from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.planning import hardware
hardware.prepare_environment()
from mvgrpo_jax.planning import compilation, remedies
words = ["prompts_per_iteration=128", "group_size=2", "views.count=9", "sampling.steps=2"]
words += ["algorithm.mvgrpo.trained_steps=(0,)"]
words += ["mesh.fsdp=4", "train.remat=full"]
config = arguments.from_arguments("configs/flux_nano.py", [f"--config.{w}" for w in words])
costs, run = compilation.measure(config, "h200:1x4", ("update",))
chip = dataclasses.replace(hardware.CHIPS["h200"], memory=costs[0].peak * 9 // 10, reserve=0)
assert not remedies.fits(costs, chip)
print(remedies.nearest(config, run.mesh.shape, "h200:1x4", costs, chip)[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "config.train.view_chunk=1  (the last step: train.view_chunk=1)", done.stderr[-2000:]


def test_programs_that_a_run_does_not_have(tmp_path):
    code, out, err, _ = plan(tmp_path, "h200:1x4", "--program=updat")
    assert code == 2 and "no program updat in this run; there are: encode_prompts, rollout" in err


@pytest.mark.nightly
def test_sampling_in_pieces_evaluates_the_model_as_often():
    """The programs of a run whose captions come from a server: anchor and tails cost what the one rollout does, but that two
    steps of the tails embed a text once more."""
    from mvgrpo_jax.models import flux
    from mvgrpo_jax.planning import flops
    from mvgrpo_jax.planning.abstract import AbstractRun
    from tests.runs import small_config

    costs = {}
    for enhancer in ("vlm", "offline"):
        config = small_config()
        config.views.enhancer = enhancer
        run = AbstractRun(config, [jax.devices()[:1]])
        with jax.set_mesh(run.mesh):
            costs[enhancer] = {n: c.times * flops.count(c.program, *c.arguments) for n, c in run.calls().items()}
    pieces, whole = costs["vlm"], costs["offline"]
    assert list(pieces)[:6] == ["encode_prompts", "anchor", "tail 0", "tail 1", "join", "decode"] and "rollout" not in pieces
    text = 2 * flux.text_flops(run.pipeline.flux_config, run.programs.text_length)
    assert pieces["anchor"] + pieces["tail 0"] + pieces["tail 1"] == whole["rollout"] + 2 * text
    assert pieces["decode"] == whole["decode"] and pieces["update"] == whole["update"]


@pytest.mark.parametrize(
    "name",
    [
        "mvgrpo",
        "diffusion_nft",
        "adagrpo",
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("mixgrpo", "branchgrpo", "granular_grpo")),
    ],
)
def test_every_kind_of_run_has_its_programs_planned(name):
    """The abstract arguments of each program of a run fit it, and operations are counted, also where a window moves."""
    from mvgrpo_jax.models import flux
    from mvgrpo_jax.planning.abstract import AbstractRun
    from mvgrpo_jax.run import budget
    from tests.runs import small_config

    config = small_config()
    config.algorithm.name, config.views.count = name, 1
    config.algorithm.adagrpo.candidates = 2
    config.train.minibatches = 2
    run = AbstractRun(config, [jax.devices()[:1]])
    with jax.set_mesh(run.mesh):
        counted = {n: run.operations(n, call) for n, call in run.calls().items()}
        for call in run.calls().values():
            jax.eval_shape(call.program, *call.arguments)
    sampled = ("anchor", "finish") if name == "adagrpo" else ("rollout",)
    expected = budget.of(config, run.programs)
    text = flux.text_flops(run.pipeline.flux_config, run.programs.text_length)
    # Samples of one text share its embedding; that of a window that moves is counted as if they did not.
    spared, rest = divmod(expected.sampled * expected.flops - sum(counted[n] for n in sampled), text)
    assert rest == 0 and 0 <= spared < expected.sampled
    ratios = name not in ("diffusion_nft", "adagrpo")  # the others compare with what was kept before two updates
    assert ("old_densities" in counted) == ratios and counted["update"] > 0
