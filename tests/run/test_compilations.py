"""What compiles, and when: nothing after the first iteration."""

import pytest

from mvgrpo_jax.enhancers.online import OnlineSession
from mvgrpo_jax.run import loop
from tests.runs import small_config

pytestmark = pytest.mark.nightly


def test_nothing_compiles_after_the_first_iteration(compiled, tmp_path, monkeypatch):
    """Six iterations with a window that moves, one in which no caption comes, evaluations in between, and a checkpoint."""
    config = small_config(iterations=6)
    config.algorithm.name = "mixgrpo"
    config.algorithm.mixgrpo.update(size=2, dwell=2)
    config.views.patience = 0
    config.eval.update(every=2, steps=2)
    config.checkpoint.every = 3
    iterate, captions, load, runs = loop.Loop.iterate, OnlineSession.captions, loop.load, []

    def iterating(self, number):
        iterate(self, number)
        compiled.append(number)

    def captioning(self, branch):
        found = captions(self, branch)
        return [[None] * len(view) for view in found] if self.iteration == 3 else found

    def loading(outlined):
        run, initial = load(outlined)
        runs.append(run)
        return run, initial

    monkeypatch.setattr(loop, "load", loading)
    monkeypatch.setattr(loop.Loop, "iterate", iterating)
    monkeypatch.setattr(OnlineSession, "captions", captioning)
    loop.train(config, tmp_path)
    first, *later = [compiled.index(n) for n in range(6)]
    assert compiled[first + 1 : later[-1] + 1] == [1, 2, 3, 4, 5]
    names = [n for n in compiled[:first] if isinstance(n, str)]
    assert len(names) > 10
    (run,) = runs
    programs = {name: p for name, p in vars(run.programs).items() if hasattr(p, "_cache_size")}
    assert {"encode", "encode_views", "rollout", "decode", "evaluate", "update"} <= programs.keys()
    # Traced once each, those among them that the building of the run calls; what is decoded has one shape.
    assert {name: p._cache_size() for name, p in programs.items()} == dict.fromkeys(programs, 1)
