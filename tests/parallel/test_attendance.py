"""Whom a job's processes blame, and when. Three processes, 10 s of silence, 100 s of standstill."""

from mvgrpo_jax.parallel.attendance import Attendance, Said

SAID = {p: Said(0, f"host{p}", "iteration 3, caption", 7) for p in range(3)}


def heard(me=1, until=50, **changes):
    """An attendance that heard all processes each second; changes: 'p2' -> process 2 says that from second 20 on."""
    kept = Attendance(me, silence=10.0, standstill=100.0, now=0.0)
    for second in range(until):
        everyone = {p: said._replace(beats=second, steps=7 + second) for p, said in SAID.items()}
        if second >= 20:
            for name, words in changes.items():
                everyone[int(name[1])] = everyone[int(name[1])]._replace(**words)
        kept.hear(everyone, float(second))
        if verdict := kept.verdict(second + 0.5):
            return second, verdict
    return kept


def test_a_job_at_work_goes_on():
    assert heard().verdict(50.0) is None


def test_a_silent_process_is_named():
    second, verdict = heard(p2={"beats": 20, "steps": 27})
    assert second == 31 and verdict.status == 75
    assert verdict.message.startswith("process 2 on host2 died or hangs") and "iteration 3, caption" in verdict.message


def test_a_process_that_left_is_not_missed():
    assert heard(p2={"beats": 20, "steps": 27, "left": True}).verdict(50.0) is None


def test_without_process_0_nobody_is_heard():
    kept = heard()
    assert kept.verdict(58.0) is None and kept.verdict(59.5).message.startswith("process 0 on host0 died or hangs")
    assert kept.verdict(50.0, cut_off=True).message.startswith("process 0 on host0")
    assert heard(me=0).verdict(50.0, cut_off=True) is None  # process 0 hears itself
    assert heard(p0={"left": True}).verdict(50.0, cut_off=True) is None


def test_a_mistake_ends_all_at_once_with_its_status():
    assert heard(p0={"failed": "no space left", "status": 2, "sure": True}) == (
        20,
        ("process 0 on host0 failed: no space left", 2),
    )


def test_the_dead_are_blamed_before_their_victims():
    """Process 2 dies; process 0 fails of it at once and says so."""
    gloo = {"failed": "connection closed by peer", "status": 1}
    second, verdict = heard(p2={"beats": 20, "steps": 27}, p0=gloo)
    assert second == 31 and verdict.message.startswith("process 2 on host2 died")
    assert heard(p0=gloo) == (32, ("process 0 on host0 failed: connection closed by peer", 1))
    assert heard(p0=gloo, p1=gloo).verdict(50.0) is None  # each says itself what ended it


def test_a_job_that_stands_still_names_who_is_behind():
    stuck = {p: {"steps": 30 - (p == 2)} for p in range(3)}
    second, verdict = heard(until=200, p0=stuck[0], p1=stuck[1], p2=stuck[2])
    assert second == 120 and verdict.status == 75
    assert verdict.message.startswith(
        "process 2 on host2 hangs at iteration 3, caption: no process of the job went on for 100 s"
    )
    assert "3 of 3 processes hang at" in heard(until=200, p0=stuck[0], p1=stuck[0], p2=stuck[0])[1].message
    never = Attendance(0, 10.0, 0.0, 0.0)
    never.hear(SAID, 0.0)
    assert never.verdict(1e6) is None
