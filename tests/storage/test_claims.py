"""Claims where there are no locks."""

import json
import threading
import time

import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.storage import claims, place
from tests.storage.bucket import mount


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in a bucket, where a second is sixty."""
    mount(monkeypatch, tmp_path)
    monkeypatch.setattr(claims, "BEAT", 0.05)
    monkeypatch.setattr(claims, "WATCH", 1.0)
    return place("gs://bucket/run")


def killed(claim):
    """What is left of a claim whose process was killed."""
    claim._ended.set()
    claim._thread.join()


def test_one_at_a_time(folder):
    with claims.hold(folder) as first:
        with pytest.raises(UserError, match=r"process \d+ on .* is at work in gs://bucket/run"):
            claims.hold(folder)
        first.check()
    assert not (folder / "lock").exists()
    claims.hold(folder).close()


def test_what_a_killed_process_left_is_taken_over(folder, capsys):
    killed(claims.hold(folder))
    before = time.monotonic()
    second = claims.hold(folder)
    assert time.monotonic() - before >= 1.0 and "is still at work" in capsys.readouterr().err
    second.check()
    killed(second)
    said = json.loads((folder / "lock").read_text())
    (folder / "lock").write_text(json.dumps(said | {"time": said["time"] - 2 * claims.LONG_AGO}))
    capsys.readouterr()
    claims.hold(folder).close()
    assert "is still at work" not in capsys.readouterr().err, "one of yesterday is not watched"


def test_who_was_taken_for_dead_stops(folder):
    first = claims.hold(folder)
    (folder / "lock").write_text(json.dumps({"owner": "process 7 on b", "token": "another", "beat": 0, "time": time.time()}))
    first._thread.join(5)
    with pytest.raises(UserError, match="process 7 on b has taken gs://bucket/run over"):
        first.check()
    first.close()
    assert json.loads((folder / "lock").read_text())["token"] == "another"


def test_of_two_at_the_same_time_one_stays(folder):
    held, refused = [], []

    def take():
        try:
            held.append(claims.hold(folder))
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(held) == len(refused) == 1
    held[0].close()


def test_a_renewal_that_fails_is_tried_again(folder, monkeypatch, capsys):
    claim = claims.hold(folder)
    real = claims.Claim._write
    monkeypatch.setattr(claims.Claim, "_write", lambda self, beat: (_ for _ in ()).throw(OSError("no connection")))
    said, deadline = "", time.monotonic() + 20
    while "could not be renewed (no connection)" not in said and time.monotonic() < deadline:
        said += capsys.readouterr().err
        time.sleep(0.01)
    monkeypatch.setattr(claims.Claim, "_write", real)
    while json.loads((folder / "lock").read_text())["beat"] <= 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    claim.check()
    assert json.loads((folder / "lock").read_text())["beat"] > 1
    assert "could not be renewed (no connection)" in said
    claim.close()


def test_a_disk_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(claims.fcntl, "flock", none)
    monkeypatch.setattr(claims, "BEAT", 0.05)
    with claims.hold(tmp_path) as claim:
        assert isinstance(claim, claims.Claim)
