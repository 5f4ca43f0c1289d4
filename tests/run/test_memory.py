"""Memory that does not suffice: what a run says, with the runtimes' own words and with a real error of this processor's."""

import json
import re

import jax
import numpy as np
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.program import Program, named_by
from mvgrpo_jax.planning import hardware, remedies
from mvgrpo_jax.run import build, iteration, loop, memory
from tests.runs import small_config

WORDS = {
    "RESOURCE_EXHAUSTED: Out of memory allocating 70368744177664 bytes.": 2**46,
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes.": 2**35,
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12.50GiB.": 12.5 * 2**30,
    "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 16.00G. That was not possible. There are "
    "9.99G free.; (0x0x0_HBM0)": 2**34,
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 21.5G of 15.75G hbm. "
    "Exceeded hbm capacity by 5.75G.": 21.5 * 2**30,
    "RESOURCE_EXHAUSTED: something else": 0,
}


@pytest.mark.parametrize("text", WORDS)
def test_bytes_are_read_from_what_the_runtimes_say(text):
    assert memory.asked(text) == WORDS[text]


def brief(**changes):
    config = small_config(iterations=1, group_size=2)
    config.eval.every = 0
    config.update_from_flattened_dict(changes)
    return config


def test_a_real_error_names_program_bytes_and_settings(tmp_path):
    """Pictures of 16384 x 16384: attention over a million tokens."""
    with pytest.raises(UserError) as caught:
        loop.train(brief(**{"image.height": 16384, "image.width": 16384}), tmp_path)
    first, settings, *rest = str(caught.value).splitlines()
    found = re.fullmatch(
        r"out of memory \(iteration 0, sample\): the program 'rollout' asked for [\d.]+ GiB \(([\d,]+) bytes\) on cpu", first
    )
    assert found and int(found[1].replace(",", "")) > 2**37
    assert "train.remat=full; train.view_chunk=1" in settings and not rest, "a processor is no chip to plan for"


def test_an_error_that_no_call_raises_names_the_stage(tmp_path, monkeypatch):
    """Where a device is asked later, no program is known."""

    def judge(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 16.00G.")

    monkeypatch.setattr(iteration, "judge", judge)
    with pytest.raises(UserError, match=r"out of memory \(iteration 0, judge\): asked for: 16.00 GiB"):
        loop.train(brief(), tmp_path)


def test_other_errors_of_the_runtime_stay_what_they_are(tmp_path, monkeypatch):
    def judge(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(iteration, "judge", judge)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a bug"):
        loop.train(brief(), tmp_path)


def test_a_programs_errors_bear_its_name():
    program = Program("twice", lambda x: x[:, None] * x[None, :] @ x[:, None])
    np.testing.assert_array_equal(program(np.ones(2, np.float32)), np.full((2, 1), 2.0))
    assert program.lower(np.ones(2, np.float32)).compile().as_text().startswith("HloModule jit_twice")
    big = Program("big", lambda x: jax.numpy.zeros((2**44,)) + x)
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        big(1.0)
    assert named_by(caught.value) == "big" and named_by(ValueError()) == ""


def test_an_error_that_comes_after_the_call_is_traced_to_it():
    """On this processor a program of several devices returns before it has failed."""
    here = jax.NamedSharding(jax.make_mesh((2,), ("x",)), jax.P("x"))
    big = Program("big", lambda x: jax.numpy.zeros((2**44,)) + x, out_shardings=here)
    after = Program("after", lambda x: x + 1)
    held = big(1.0)
    last = after(held)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory") as caught:
        last.block_until_ready()
    assert named_by(caught.value) == "big"


@pytest.mark.nightly
def test_plan_is_asked_what_fits(tmp_path, monkeypatch):
    """A run on four chips of v5e, for which it is small: `plan` says so, in a process of its own."""
    config = brief()
    outlined = build.outline(config)
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    monkeypatch.setattr(hardware, "topology_of", lambda groups: "v5e:2x2")
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1024 bytes.")
    error.program = "update"
    outlined.close()
    text = memory.message(outlined, tmp_path, "iteration 0, update", error)
    assert "the program 'update' asked for 0.00 GiB (1,024 bytes)" in text
    assert f"python -m mvgrpo_jax.plan --config={tmp_path}/config.json --topology=v5e:2x2" in text
    assert remedies.remedies(config, outlined.mesh.shape)[0][0] in text
    assert "plan expects this to fit: look for what else is in that memory" in text, text


@pytest.mark.parametrize(
    "facts, words",
    [
        (
            {"fits": False, "nearest": {"setting": "config.train.remat=full  (the last step: ...)"}},
            "plan's search: config.train.remat",
        ),
        ({"fits": True}, "plan expects this to fit: look for what else"),
        (None, "plan could not tell (no such chip)"),
    ],
)
def test_what_is_made_of_plans_answer(facts, words):
    write = (
        f"open(sys.argv[1].removeprefix('--json='), 'w').write({json.dumps(facts)!r})" if facts else "sys.exit('no such chip')"
    )
    assert memory.searched(["-c", f"import sys; {write}"]).startswith(words)


def test_plan_may_take_only_so_long(monkeypatch):
    monkeypatch.setattr(memory, "SEARCH_S", 0.2)
    assert memory.searched(["-c", "import time; time.sleep(60)"]) == "plan found none of them within 0 s"


def test_high_water_of_this_process():
    before = memory.high_water()["memory/host_gib"]
    held = np.ones(2**28, np.uint8)
    after = memory.high_water()["memory/host_gib"]
    assert after >= before > 0.05 and after * 2**30 > held.nbytes
