"""What all trackers share: names that others use, errors that do not end a run, bounds on pictures."""

import numpy as np
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import trackers
from mvgrpo_jax.run.trackers import folder, keys
from mvgrpo_jax.run.trackers.folder import Folder
from mvgrpo_jax.storage import place
from tests.run.trackers import jobs
from tests.storage.bucket import mount


def test_other_programs_names():
    values = {
        "eval/a_b": 1.0,
        "eval_std/a_b": 2.0,
        "reward/a_b": 3.0,
        "reward_std/a_b": 4.0,
        "reward_std/watches": 5.0,
        "zero_std/a_b": 0.5,
        "clip/low": 0.1,
        "clip/high": 0.2,
        "kl": 0.3,
        "grad_norm": 7.0,
        "time/eval": 8.0,
    }
    assert keys.aliases(values) == {
        "eval/reward_a_b_mean": 1.0,
        "eval/reward_a_b_std": 2.0,
        "train/reward_a_b_mean": 3.0,
        "train/reward_a_b_std_mean": 4.0,
        "train/reward_watches_std_mean": 5.0,
        "zero_std_ratio": 0.5,
        "reward_std_mean": 4.0,
        "pg_clipfrac_lower": 0.1,
        "pg_clipfrac_higher": 0.2,
        "pg_clipfrac": pytest.approx(0.3),
        "kl_loss": 0.3,
    }


def test_of_several_trained_judges_none_is_the_one():
    found = keys.aliases({"zero_std/a": 0.5, "zero_std/b": 0.25, "reward_std/a": 1.0})
    assert found == {"train/reward_a_std_mean": 1.0}


def with_fakes(where, count=2):
    fakes = [jobs.Fake() for _ in range(count)]
    return fakes, trackers.Trackers({f"t{i}": (fake, Folder(where / f"t{i}")) for i, fake in enumerate(fakes)})


def test_a_tracker_that_fails_ends_nothing_and_is_left_alone_after_three_in_a_row(tmp_path, capsys):
    (bad, good), group = with_fakes(tmp_path)
    for iteration, away in enumerate((True, True, False, True, True, True, False)):
        bad.away = away
        group.numbers(iteration, {"loss": 1.0})
    said = capsys.readouterr().err
    assert said.count("warning: t0: ConnectionError: nobody there") == 5 and said.count("left alone") == 1
    assert [i for i, _ in bad.calls] == [2] and [i for i, _ in good.calls] == list(range(7))
    group.close()
    assert "close" not in bad.calls and good.calls[-1] == "close"


def test_files_that_grow_are_copied_to_object_storage(tmp_path, monkeypatch):
    mount(monkeypatch, tmp_path)
    fake, held = jobs.Fake(), Folder(place("gs://bucket/run/board"))
    group = trackers.Trackers({"board": (fake, held)})
    (held.local / "deep").mkdir(parents=True)
    (held.local / "deep" / "log").write_text("one")
    group.numbers(0, {"loss": 1.0})
    assert not (tmp_path / "bucket").exists() and "flush" not in fake.calls
    monkeypatch.setattr(folder, "COPIED", 0.0)
    group.numbers(1, {"loss": 1.0})
    stored = tmp_path / "bucket/run/board/deep/log"
    assert stored.read_text() == "one" and fake.calls[-1] == "flush"
    (held.local / "deep" / "log").write_text("one two")
    group.close()
    assert stored.read_text() == "one two" and fake.calls[-1] == "close" and not held.local.parent.exists()


def test_what_is_not_finite_is_left_out_and_pictures_are_bounded(tmp_path):
    (fake,), group = with_fakes(tmp_path, 1)
    group.numbers(3, {"loss": float("inf"), "eval/clip": float("nan"), "kl": 0.5})
    assert fake.calls == [(3, {"kl": 0.5, "kl_loss": 0.5})]
    images = {i: np.full((1024, 600, 3), i, np.uint8) for i in range(5, 40)}
    group.pictures(4, images, [f"text {i}" for i in range(40)])
    shown = fake.calls[-1][1]
    assert [p.number for p in shown] == list(range(5, 21)) and [p.caption for p in shown][:2] == ["text 5", "text 6"]
    assert {p.image.shape for p in shown} == {(512, 300, 3)} and all((p.image == p.number).all() for p in shown)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.NAMES, "swanlab", "package_that_nobody_has")
    with pytest.raises(UserError, match=r"swanlab needs the package.*pip install 'mvgrpo_jax\[swanlab\]', or leave it out"):
        jobs.begin(tmp_path, "swanlab")


def test_one_that_does_not_begin_is_a_mistake(tmp_path, monkeypatch):
    from mvgrpo_jax.run.trackers import tensorboard

    def refuse(job):
        raise PermissionError("no key")

    monkeypatch.setattr(tensorboard, "begin", refuse)
    with pytest.raises(UserError, match=r"tensorboard did not begin \(PermissionError: no key\)\. Log in"):
        jobs.begin(tmp_path, "tensorboard")


def test_none_but_the_chief_tracks(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "is_chief", lambda: False)
    assert not jobs.begin(tmp_path, "tensorboard") and not list(tmp_path.iterdir())
