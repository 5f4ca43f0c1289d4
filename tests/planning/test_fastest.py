"""The search for the fastest setting, over a machine whose costs are a formula."""

import dataclasses
from types import SimpleNamespace

import pytest

from configs import flux_nano
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.planning import compilation, fastest
from mvgrpo_jax.planning.compilation import Cost
from mvgrpo_jax.planning.hardware import CHIPS, GIB

NOTHING = Cost("", 1, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
REPEATED = {"none": 3.0, "dots": 3.4, "full": 4.0}  # forward passes of an update
KEPT = {"none": 8.0, "dots": 4.0, "full": 1.0}  # GiB an item of a microbatch


@pytest.fixture
def machine(monkeypatch):
    """measure() by a formula: 10 views x 16 prompts; what it was asked."""
    asked = []

    def measure(config, topology, only=()):
        t, m = config.train, config.mesh
        asked.append((t.remat, t.view_chunk, t.prompt_chunk, m.data, m.fsdp, only))
        if m.fsdp == 1 and m.data == 8:
            raise UserError("a parameter has fewer rows")
        items = (t.view_chunk or 10) * (t.prompt_chunk or 16)
        sent = 1.0 if m.fsdp == 8 else 0.6  # exposed seconds of a gather
        update = dataclasses.replace(
            NOTHING, name="update", temporaries=int(items * KEPT[t.remat] * GIB), seconds=REPEATED[t.remat] + sent, exposed=sent
        )
        rollout = dataclasses.replace(NOTHING, name="rollout", seconds=20.0, resident=2 * GIB)
        costs = [c for c in (rollout, update) if not only or c.name in only]
        shape = {"data": m.data, "fsdp": m.fsdp, "tensor": 1}
        return costs, SimpleNamespace(mesh=SimpleNamespace(shape=shape), islands=[0] * 8, programs=PROGRAMS)

    monkeypatch.setattr(compilation, "measure", measure)
    return asked


PROGRAMS = SimpleNamespace(states=lambda config: 1)


def config(**train):
    c = flux_nano.get_config()
    c.views.count, c.mesh.fsdp, c.mesh.auto = 9, 8, False
    c.train.update({"remat": "full", "view_chunk": 1, "prompt_chunk": 1} | train)
    return c


def search(c, memory, margin=0.0):
    chip = dataclasses.replace(CHIPS["h200"], memory=int(memory * GIB), reserve=0)
    found = fastest.Search(c, "h200:1x8", chip, margin)
    return found, found.run()


def test_the_least_repeated_work_that_fits(machine):
    """400 GiB hold 50 items without remat, of 10 x 16: 10 views of 4 prompts (40) or 5 of 8 are the largest below."""
    found, best = search(config(), 400)
    assert best.changes["train.remat"] == "none" and best.changes.get("train.prompt_chunk") in (4, 8)
    assert best.costs["update"].temporaries == 40 * 8 * GIB
    assert best.seconds == pytest.approx(20 + 3 + 0.6) and best.changes["mesh.fsdp"] in (2, 4), (
        "a mesh that sends less was found"
    )
    assert found.tried[0].seconds == pytest.approx(20 + 4 + 1)
    assert len(machine) < 25


def test_the_largest_microbatch_is_found_by_halving(machine):
    """By hand, of all microbatches in the order of their size."""
    for memory in (9, 33, 100, 400, 2000):
        _, best = search(config(), memory)
        sizes = sorted({v * p for v in (1, 2, 5, 10) for p in (1, 2, 4, 8, 16)})
        fit = {r: [n for n in sizes if n * KEPT[r] <= memory] for r in KEPT}
        remat = next(r for r in fastest.REMAT if fit[r])
        assert best.costs["update"].temporaries == int(max(fit[remat]) * KEPT[remat] * GIB), memory
        assert best.costs["update"].seconds == REPEATED[remat] + 0.6


def test_the_margin_stays_free(machine):
    _, tight = search(config(), 80, margin=0.0)
    _, loose = search(config(), 80, margin=0.5)
    assert tight.peak == 80 * GIB and loose.peak == 40 * GIB


def test_other_meshes_are_not_tried_where_nothing_is_exposed(machine, monkeypatch):
    measure = compilation.measure

    def hidden(*arguments):
        costs, plan = measure(*arguments)
        return [dataclasses.replace(c, exposed=0.0) for c in costs], plan

    monkeypatch.setattr(compilation, "measure", hidden)
    search(config(), 400)
    assert {asked[4] for asked in machine} == {8}


def test_a_mesh_that_cannot_be_is_passed_over_and_what_does_not_fit_is_said(machine):
    found, best = search(config(), 400)
    assert [t.refused for t in found.tried if t.refused] == ["a parameter has fewer rows"]
    found, nothing = search(config(), 0.5)
    assert nothing is None
    assert "nothing that was tried fits 0.5 GiB" in fastest.report(found.tried[0], nothing, found.bound)
    assert "leaves too little free" in fastest.line(found.tried[0], found.bound)


def test_the_report_names_the_flags(machine):
    found, best = search(config(), 2000)
    text = fastest.report(found.tried[0], best, found.bound)
    assert "25.0 s an iteration" in text and "--config.train.remat=none" in text and "--config.train.view_chunk=0" in text
    facts = fastest.facts(found)
    assert facts["best"] == best.changes and len(facts["tried"]) == len(found.tried)
