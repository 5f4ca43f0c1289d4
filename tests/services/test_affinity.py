"""Requests that share a home go to one endpoint, which holds what they share; others are asked when it is broken, or late."""

import asyncio
import collections

import pytest

from mvgrpo_jax.services import Service, Settings, Worker
from tests.services.faults import FaultServer, says, slow, status

OK = "fine"
QUICK = {"model": "m", "attempt_s": 2.0, "request_s": 8.0, "batch_s": 9.0, "backoff_s": 0.02, "retries": 3, "hedge": 0.0}


def ask(servers, homes, messages=None, **settings):
    """(answers, counts) of a request for each home, all together; each says its home."""
    urls = tuple(s if isinstance(s, str) else s.url for s in servers)
    service, worker = Service(Settings(**(QUICK | {"endpoints": urls} | settings))), Worker()

    async def all_of_them():
        say = lambda home: [{"role": "user", "content": home.decode()}]
        work = (service.ask(say(home), lambda text, finish: text, home=home) for home in homes)
        return await asyncio.gather(*work, return_exceptions=True)

    try:
        out = worker.submit(all_of_them()).result(30)
        worker.submit(service.close()).result(5)
        return out, service.counts
    finally:
        worker.close()


def homes_of(server):
    return collections.Counter(body["messages"][0]["content"] for _, body in server.requests)


HOMES = [f"picture {i}".encode() for i in range(24)]


def test_what_shares_a_home_goes_to_one_endpoint_and_homes_are_spread():
    with FaultServer(then=says(OK)) as a, FaultServer(then=says(OK)) as b, FaultServer(then=says(OK)) as c:
        out, _ = ask([a, b, c], HOMES * 5, concurrency=4)
        seen = [homes_of(s) for s in (a, b, c)]
        assert out == [OK] * 120 and not set(seen[0]) & set(seen[1]) | set(seen[0]) & set(seen[2]) | set(seen[1]) & set(seen[2])
        assert all(set(s.values()) == {5} for s in seen)
        assert all(len(s) >= 2 for s in seen) and max(s.most for s in (a, b, c)) <= 4
        # Without c the homes of a and b stay, and only c's move.
        ask([a, b], HOMES)
        later = [homes_of(s) for s in (a, b)]
        assert all(set(before) <= set(after) for before, after in zip(seen, later))
        # A client that lists them in another order, as another process may, asks the same ones.
        ask([c, a, b], HOMES[:8])
        assert set(homes_of(c)) == set(seen[2])


def test_a_broken_home_hands_over_to_the_next():
    with FaultServer(then=status("500 x")) as broken, FaultServer(then=says(OK)) as sound:
        out, counts = ask([broken, sound], HOMES * 3, concurrency=2, breaker=3, cooldown_s=60.0)
        assert out == [OK] * 72 and len(broken.requests) <= 3 + 2 and counts["error:server error"] == len(broken.requests)
        assert len(sound.requests) == 72
    with FaultServer(then=says(OK)) as sound:
        out, counts = ask(["http://127.0.0.1:9/v1", sound], HOMES, retries=1)  # a retry alone takes it elsewhere
        assert out == [OK] * 24 and len(sound.requests) == 24


def test_a_home_that_asks_for_a_pause_is_left_alone():
    busy = status("429 Too Many Requests", "retry-after: 60\r\n")
    with FaultServer(then=busy) as full, FaultServer(then=says(OK)) as free:
        out, _ = ask([full, free], HOMES, concurrency=1, retries=3, request_s=100.0, batch_s=100.0, backoff_s=0.0)
        assert out == [OK] * 24 and len(full.requests) == 1 and len(free.requests) == 24


def test_a_hedge_goes_elsewhere():
    quick = [slow(0.01, OK)] * 40
    with FaultServer(*quick, then=slow(1.5, "late")) as a, FaultServer(*quick, then=slow(1.5, "late")) as b:
        servers = [a, b]
        service, worker = Service(Settings(**(QUICK | {"endpoints": (a.url, b.url), "hedge": 3.0}))), Worker()
        one = lambda home: service.ask([{"role": "user", "content": home.decode()}], lambda text, finish: text, home=home)

        async def warm():
            for home in HOMES:
                await one(home)

        worker.submit(warm()).result(20)
        at = next(s for s in servers if HOMES[0].decode() in homes_of(s))
        at.script.clear()  # its home is late from now on
        service.take_counts()
        assert worker.submit(one(HOMES[0])).result(10) == OK
        counted = service.counts
        worker.submit(service.close()).result(5)
        worker.close()
        assert counted["hedges"] >= counted["hedges_won"] == 1
        other = b if at is a else a
        assert other.requests[-1][1]["messages"][0]["content"] == HOMES[0].decode()


@pytest.mark.parametrize("home", [b"", b"x"])
def test_one_endpoint_is_everybodys_home(home):
    with FaultServer(status("500 x"), then=says(OK)) as server:
        out, counts = ask([server], [home] * 6, concurrency=2)
    assert out == [OK] * 6 and counts["retries"] == 1
