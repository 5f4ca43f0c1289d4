"""Times of an iteration, of programs whose length is known, and pages of a run."""

import json
import time

import jax
import numpy as np
import pytest

from mvgrpo_jax.parallel.program import Program
from mvgrpo_jax.run import loop, metrics, report, timeline
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.timeline import DEVICE, Span, Timeline
from tests.runs import small_config


def wait(seconds):
    """A program that takes so long."""

    def host(x):
        time.sleep(seconds)
        return np.float32(x)

    return Program("wait", lambda x: jax.pure_callback(host, jax.ShapeDtypeStruct((), np.float32), x))


def test_idle_is_what_no_program_fills():
    """By hand: of 10 seconds 2 to 4 and 3 to 7 are busy, and what was done before or by others does not count."""
    line = Timeline()
    line.spans.extend([Span(DEVICE, "a", -5.0, 1.0), Span(DEVICE, "b", 2.0, 4.0), Span(DEVICE, "c", 3.0, 7.0)])
    line.spans.append(Span("host", "d", 0.0, 10.0))
    assert line.idle(0.0, 10.0) == pytest.approx(0.4)
    assert line.idle(7.0, 9.0) == 1.0
    assert line.between(0.0, 2.5) == [Span(DEVICE, "a", 0.0, 1.0), Span("host", "d", 0.0, 2.5), Span(DEVICE, "b", 2.0, 2.5)]


def test_programs_are_timed_until_their_results_are_there():
    program, line = wait(0.15), Timeline()
    jax.block_until_ready(program(1.0))
    with line:
        start = time.perf_counter()
        first = program(1.0)
        second = program(first)  # called while the first one works, or just after
        jax.block_until_ready(second)
        time.sleep(0.1)
        end = time.perf_counter()
    a, b = [s for s in line.spans if s.line == DEVICE]
    assert a.name == "wait" and a.end - a.start >= 0.14 and b.end - b.start >= 0.14
    assert b.start >= a.end
    unfilled = (a.start - start) + (b.start - a.end) + (end - b.end)
    assert line.idle(start, end) * (end - start) == pytest.approx(unfilled) and unfilled >= 0.08
    assert not [s for s in line.spans if s.line == "host"]
    program(1.0)
    assert len(line.spans) == 2, "it listens only while it is entered"


def test_stages_are_noted_as_the_trace_names_them():
    line = Timeline()
    with Clock(line)("enhance"):
        time.sleep(0.01)
    (span,) = line.spans
    assert span[:2] == ("host", "caption") and span.end - span.start >= 0.01


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("timeline")
    config = small_config(iterations=4)
    config.eval.every, config.log.images_every = 0, 1
    loop.train(config, workdir)
    return workdir


@pytest.mark.nightly
def test_a_run_says_how_idle_its_devices_were(ran):
    rows, kept = metrics.read(ran), timeline.read(ran)
    assert all(0 <= row["time/idle"] < 1 for row in rows), [row["time/idle"] for row in rows]
    assert [row["iteration"] for row in kept] == [1, 2, 3]
    for row in kept:
        names = {(line, name) for line, name, *_ in row["spans"]}
        assert {(DEVICE, "rollout"), (DEVICE, "decode"), (DEVICE, "judge clip")} <= names
        assert {("host", "text"), ("host", "caption"), ("host", "judge")} <= names
        assert {line for line, _ in names} == {DEVICE, "host", "captions", "judges"}
        assert all(0 <= start <= end <= row["seconds"] + 1e-3 for _, _, start, end in row["spans"])
    # An update is under way when the next iteration begins.
    assert any(span[:2] == [DEVICE, "update"] for row in kept for span in row["spans"])
    # Idle as the kept spans say.
    for row in kept:
        line = Timeline()
        line.spans.extend(Span(*span) for span in row["spans"])
        assert line.idle(0, row["seconds"]) == pytest.approx(rows[row["iteration"]]["time/idle"], abs=0.02)


@pytest.mark.nightly
def test_the_report_draws_it(ran):
    page = report.write([ran]).read_text()
    assert "who works when" in page and "timeline of an iteration" in page
    image = timeline.draw(timeline.read(ran)[-1])
    assert image.startswith(b"\x89PNG")


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    (tmp_path / timeline.FILE).write_text(json.dumps({"iteration": 1, "seconds": 1.0, "spans": []}) + '\n{"iterat')
    assert [row["iteration"] for row in timeline.read(tmp_path)] == [1]
    keeper = timeline.Keeper(tmp_path, 1)  # goes on from iteration 1, which comes again
    keeper.write(1, [Span("host", "text", 5.0, 6.0)], 4.0, 8.0)
    keeper.close()
    assert timeline.read(tmp_path) == [{"iteration": 1, "seconds": 4.0, "spans": [["host", "text", 1.0, 2.0]]}]
