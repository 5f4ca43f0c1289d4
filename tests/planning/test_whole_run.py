"""A plan beside the run that it plans: the same programs, and the same bytes on a device while they run."""

import functools
import gc

import jax
import pytest

from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.parallel.mesh import islands
from mvgrpo_jax.planning.abstract import AbstractRun, per_device
from mvgrpo_jax.rewards import Panel
from mvgrpo_jax.run import loop
from tests.runs import small_config

pytestmark = pytest.mark.slow


# How an iteration's update is made -> the programs of its own.
WAYS = {"waits": ("update",), "ahead": ("update",), "by branch": ("add", "finish_update")}


def settings(way):
    """That of test_few_prompts, with an evaluation."""
    ahead = way == "ahead"
    config = small_config(iterations=1 + ahead, group_size=4)
    config.train.async_steps, config.train.by_branch = int(ahead), way == "by branch"
    config.views.count = 3
    config.eval.every, config.mesh.fsdp = 1 + ahead, 8  # best weights are not saved meanwhile
    return config


def test_encodings_are_small_on_a_pod():
    """The paper's setting with a prompt a device, as 64 on v5p:4x4x4: the encodings of 13 views took 18.7 GiB of each chip when
    all held those of all."""
    config = arguments.load("configs/mvgrpo_flux.py")
    config.views.enhancer = "vlm"  # captions of their own for each branch
    config.prompts_per_iteration, config.sampling.max_sequence_length, config.mesh.fsdp = 8, 512, 8
    plan = AbstractRun(config, islands(jax.devices()))
    with jax.set_mesh(plan.mesh):
        calls = plan.calls()
    views = calls["update"].arguments[2].views
    assert views.txt.shape == (13, 8, 4, 512, 4096)
    one = 512 * 4096 * 2 + 768 * 2
    assert per_device(views) == 13 * 4 * one < 0.5 * 2**30


def held_by_a_device() -> dict[int, int]:
    """Bytes of each buffer of the live arrays on the first device; several arrays may share one."""
    shards = [s for array in jax.live_arrays() for s in array.addressable_shards if s.device.id == 0]
    return {s.data.unsafe_buffer_pointer(): s.data.nbytes for s in shards}


@pytest.fixture(scope="module")
def both(request, tmp_path_factory):
    """({program: most bytes on a device when it was called}, the plan, its calls)."""
    called = {}

    def watched(name, program):
        @functools.wraps(program)
        def call(*arguments):
            held = sum(size for buffer, size in held_by_a_device().items() if buffer not in before)
            called[name] = max(called.get(name, 0), held)
            return program(*arguments)

        return call

    load, score = loop.load, Panel.program

    def loading(outlined):
        run, initial = load(outlined)
        programs = run.programs
        members = [m for kind in type(programs).__mro__ for m in vars(kind).items()]
        names = [n for n, a in members if isinstance(a, functools.cached_property)]
        for name in set(names) - {"state_shardings", "_tails", "init", "adapters"}:
            if hasattr(program := getattr(programs, name), "lower"):
                vars(programs)[name] = watched(name, program)
        return run, initial

    gc.collect()
    before = held_by_a_device()  # of other tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "load", loading)
        patch.setattr(Panel, "program", lambda self, name: watched(f"judge {name}", score(self, name)))
        loop.train(settings(request.param), tmp_path_factory.mktemp("run"))
    config = settings(request.param)
    config.sampling.max_sequence_length = 0
    plan = AbstractRun(config, islands(jax.devices()))
    with jax.set_mesh(plan.mesh):
        return called, plan, plan.calls()


@pytest.mark.nightly
@pytest.mark.parametrize("both", WAYS, indirect=True)
def test_the_plan_lists_what_a_run_calls(both):
    called, _, calls = both
    listed = {name.removesuffix(" of evaluation") for name in calls}
    # The texts of the evaluation are encoded before the loop, when the run is loaded.
    assert set(called) | {"encode"} == listed


@pytest.mark.nightly
@pytest.mark.parametrize(
    "both, name",
    [
        (way, name)
        for way, own in WAYS.items()
        for name in ("rollout", "decode", "judge clip", "encode_views", "select", "evaluate", *own)
    ],
    indirect=["both"],
)
def test_bytes_on_a_device_are_those_of_the_run(both, name):
    called, plan, calls = both
    call = calls[name]
    taken = {id(a) for a in jax.tree.leaves(call.arguments)}
    beside = [x for x in jax.tree.leaves((plan.held, call.beside)) if id(x) not in taken]
    planned = per_device(jax.tree.leaves(call.arguments)) + per_device(beside)
    assert planned == pytest.approx(called[name], rel=0.05)
