"""A traced run: what its trace holds, read by XProf's format, and that nothing compiles because of it."""

import gzip
import json
import re
from contextlib import nullcontext

import jax
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import tracing
from tests.processes import succeed, together

STAGES = {"rollout", "decode", "caption", "judge", "update"}

# In a process of its own: a trace holds every program of its process, and where another test has had libtpu compile something
# it would end the suite's.
TRACED = """
import json
from pathlib import Path

from mvgrpo_jax.run import loop
from tests.runs import small_config

events = []

def listen(event, duration, **facts):
    if event == "/jax/core/compile/backend_compile_duration":
        events.append(str(facts.get("fun_name", event)))

original = loop.Loop.iterate

def iterate(self, number):
    events.append(number)
    original(self, number)

loop.Loop.iterate = iterate
jax.monitoring.register_event_duration_secs_listener(listen)
config = small_config(iterations=4, group_size=2, profile="1:2")
config.eval.every, config.checkpoint.every = 0, 0
loop.train(config, Path(ARGUMENTS[0]))
print(json.dumps(events))
"""
# jax loads libtpu, as it does for a TPU; the version that it does not expect is the installed one (setup.py's extra `plan`).
LOADED = """
from pathlib import Path

from jax.experimental import topologies

from mvgrpo_jax.planning import hardware
from mvgrpo_jax.run import tracing

hardware.prepare_environment()
topologies.get_topology_desc("v5e:2x2", "tpu")
tracing.Profile("1:2", Path(ARGUMENTS[0]))
"""


@pytest.mark.parametrize("loaded, found, refused", [(True, "0.0.52", True), (True, "0.0.42.1", False), (True, "", False)])
def test_a_libtpu_that_jax_does_not_expect_takes_no_trace(loaded, found, refused):
    asked = ["numpy>=2.0", 'libtpu==0.0.42.*; extra == "tpu"']
    for words, error in ((asked, refused), (["numpy"], False)):
        said = pytest.raises(UserError, match=r"libtpu 0.0.52 is loaded, but this jax expects 0.0.42, .* 'libtpu==0.0.42\.\*'")
        with said if error else nullcontext():
            tracing.check_profiler(loaded, found, words)
    tracing.check_profiler(False, found, asked)


@pytest.mark.nightly
def test_where_libtpu_has_compiled_a_trace_is_refused_before_it_begins(tmp_path):
    """Left alone it is a SIGSEGV in start_trace."""
    pytest.importorskip("libtpu")
    ((status, _, errors),) = together(LOADED, str(tmp_path), processes=1)
    assert status == 1 and "UserError: config.profile: libtpu" in errors, errors


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """(workdir, what was compiled and when) of a run of four iterations, of which the second and the third are traced."""
    workdir = tmp_path_factory.mktemp("traced")
    (output,) = succeed(together(TRACED, str(workdir), processes=1))
    return workdir, json.loads(output.splitlines()[-1])


def planes(workdir):
    (file,) = (workdir / "profile").glob("plugins/profile/*/*.xplane.pb")
    return file, list(jax.profiler.ProfileData.from_file(str(file)).planes)


@pytest.mark.nightly
def test_nothing_compiles_in_traced_iterations(traced):
    _, events = traced
    assert events[events.index(1) : events.index(3) + 1] == [1, 2, 3] and len(events) > 10


@pytest.mark.nightly
def test_the_host_shows_iterations_and_their_stages(traced):
    """Each stage lies within one of the two steps."""
    _, found = planes(traced[0])
    events = [e for plane in found if plane.name == "/host:CPU" for line in plane.lines for e in line.events]
    steps = [e for e in events if e.name == "iteration"]
    assert sorted(dict(e.stats)["step_num"] for e in steps) == [1, 2]
    spans = [(e.start_ns, e.start_ns + e.duration_ns) for e in steps]
    for stage in STAGES:
        own = [e for e in events if e.name == stage]
        for first, last in spans:
            assert any(first <= e.start_ns and e.start_ns + e.duration_ns <= last for e in own), stage


@pytest.mark.nightly
def test_programs_and_scopes_have_names(traced):
    """Names of modules, and the scopes of operations, in the programs that the trace holds."""
    file, _ = planes(traced[0])
    data = file.read_bytes()
    modules = set(re.findall(rb"jit_(\w+)", data))
    assert {b"rollout", b"decode", b"judge_clip", b"update", b"select", b"encode_views"} <= modules
    for module, scope in (("rollout", "rollout"), ("decode", "decode"), ("judge_clip", "judge"), ("encode_views", "text")):
        assert f"jit({module})/{scope}/".encode() in data, module
    assert b"jit(update)/update/" in data


@pytest.mark.nightly
def test_what_a_browser_opens_is_there(traced):
    (file,) = (traced[0] / "profile").glob("plugins/profile/*/*.trace.json.gz")
    names = {event.get("name") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]}
    assert STAGES | {"iteration"} <= names
