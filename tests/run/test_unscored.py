"""Training with a judge that cannot score some pictures: what is left out, what is counted, and when a run ends."""

import contextlib
import json

import jax
import numpy as np
import pytest

from mvgrpo_jax.core.policy import assemble
from mvgrpo_jax.enhancers.online import OnlineSession
from mvgrpo_jax.errors import Outage
from mvgrpo_jax.nano.judge import SceneReward
from mvgrpo_jax.rewards import Judgement, Panel
from mvgrpo_jax.run import build, drawing, iteration, loop, metrics, report
from mvgrpo_jax.run.metrics import Clock
from tests.runs import numbers, small_config


class Failing(SceneReward):
    """Cannot score the pictures whose first pixel's value is a multiple of `every`: a tenth or so, the same each time."""

    every = 5

    def score(self, images, captions):
        scores = super().score(images, captions).scores
        lost = images[:, ::7, ::5].astype(np.int64).reshape(len(images), -1).sum(1) % self.every == 0
        return Judgement(scores, np.broadcast_to(~lost[:, None], scores.shape))


@pytest.fixture
def failing(monkeypatch):
    from mvgrpo_jax.rewards.kinds import scene

    monkeypatch.setattr(scene, "JUDGE", Failing)


def small(**changes):
    return small_config(rewards={"clip": 0.0, "scene": 1.0}, group_size=4, **changes)


def test_what_has_no_score_trains_nothing(failing, monkeypatch):
    """Of an iteration: scores and advantages by numpy, weights of 0 where there is none. A branch is judged before the captions
    of the next are asked for."""
    events, captions, begin = [], OnlineSession.captions, Panel.begin
    monkeypatch.setattr(OnlineSession, "captions", lambda self, r: events.append(("captions", r)) or captions(self, r))
    monkeypatch.setattr(Panel, "begin", lambda self, *a: events.append(("judged", a[0])) or begin(self, *a))
    config = small()
    run, initial = build.build(config)
    with contextlib.closing(run), jax.set_mesh(run.mesh):
        state = run.programs.init(initial)
        samples = drawing.sample(run, 0, assemble(state.params, run.frozen), run.prompts[:2], None, Clock())
        events.clear()
        views, scores = iteration.judge(run, 0, samples, Clock())
        judged = [("judged", name) for name in run.panel.judges]
        assert events == [("captions", 0), *judged, ("captions", 1), *judged]
        batch, log = iteration.make_batch(run, 0, samples, views, scores, Clock())
        state, (told,) = iteration.update(run, state, batch, 0)
        summary = iteration.summarise(run, 0, scores, log)
    reward = scores.by_judge["scene"]
    missing = np.isnan(reward)
    assert 0 < missing.sum() < missing.size
    assert summary["reward_invalid/scene"] == pytest.approx(missing.mean())
    assert summary["reward/scene"] == pytest.approx(np.nanmean(reward[0]))
    advantage, weight = (np.asarray(a)[: len(reward)] for a in (batch.advantage, batch.weight))
    groups = 0
    for place in np.ndindex(reward.shape[:3]):
        there = ~missing[place]
        np.testing.assert_array_equal(weight[place][~there], 0.0)
        np.testing.assert_array_equal(advantage[place][~there], 0.0)
        values = reward[place][there]
        if there.sum() < 2:
            np.testing.assert_array_equal(weight[place], 0.0)
        elif np.ptp(values) > 1e-4:
            groups += not there.all()
            want = (values - values.mean()) / values.std(ddof=1)
            np.testing.assert_allclose(advantage[place][there], want, rtol=2e-4, atol=1e-5)
            assert (weight[place][there] > 0).all()
    assert groups, "no group with some scores missing: the test says nothing"
    assert np.isfinite(np.asarray(told["loss"])) and not np.asarray(told["non_finite"])
    assert summary["views/unscored"] == ((~missing).sum(-1) < 2).sum()


@pytest.mark.nightly
def test_a_run_with_lost_scores_ends_and_counts_them(failing, tmp_path):
    config = small(iterations=3)
    config.eval.judge = "scene"
    loop.train(config, tmp_path / "run")
    rows = metrics.read(tmp_path / "run")
    assert all(0 <= row["reward_invalid/scene"] < 0.5 for row in rows[:3]) and any(
        row["reward_invalid/scene"] > 0 for row in rows[:3]
    )
    assert all(v is not None and np.isfinite(v) for row in numbers(tmp_path / "run")[:3] for v in row.values())


@pytest.mark.nightly
def test_a_run_ends_where_the_config_does_not_bear_it(failing, tmp_path):
    config = small(iterations=3, judges={"scene": {"on_failure": "stop"}})
    with pytest.raises(
        Outage, match=r"the judge 'scene' gave no valid score for \d+ of \d+ .*config.judges.scene.on_failure='stop'"
    ):
        loop.train(config, tmp_path / "run")


def test_a_report_of_scores_that_were_not_had(tmp_path):
    """A judge without any held-out score has no row; a caption without one shows a dash."""
    workdir = tmp_path / "run"
    (workdir / "samples").mkdir(parents=True)
    rows = [{"iteration": i, "eval/scene": 0.5 + i / 10, "eval/far": None, "reward_invalid/far": 1.0} for i in range(2)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = {"prompt": "p", "branch": 0, "view": 1, "caption": "c", "reward": {"scene": 0.25, "far": None}}
    (workdir / "samples" / "000000.json").write_text(json.dumps({"iteration": 0, "captions": [shown]}))
    page = report.write([workdir]).read_text()
    assert "scene 0.2500 far -" in " ".join(page.split()) and "<td>far</td>" not in page and "<td>scene</td>" in page
    assert report.changes(workdir) == ["run: eval/scene 0.5000 -> 0.6000 (+20.0 %)"]
