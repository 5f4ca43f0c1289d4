"""One asks, the others wait; nobody waits for himself, and nobody takes over another's misfortune."""

import asyncio

import pytest

from mvgrpo_jax.services import Shared, Worker


class Source:
    """Answers after a moment; the first `faults` times it fails."""

    def __init__(self, faults=0):
        self.calls, self.faults = 0, faults

    async def __call__(self):
        self.calls += 1
        number = self.calls
        await asyncio.sleep(0.05)
        if number <= self.faults:
            raise OSError("down")
        return f"answer {number}"


def test_those_who_ask_the_same_get_one_answer():
    shared, source = Shared(), Source()
    *workers, late = [Worker() for _ in range(4)]  # event loops of their own, as judges have
    futures = [worker.submit(shared.get("q", worker, source)) for worker in workers]
    assert [f.result(5) for f in futures] == ["answer 1"] * 3 and source.calls == 1
    # Any of the three may have come first, and who came first would ask again: only another one is sure to share.
    assert late.submit(shared.get("q", late, source)).result(5) == "answer 1"
    assert late.submit(shared.get("other", late, source)).result(5) == "answer 2"
    for worker in (*workers, late):
        worker.close()


def test_an_asker_does_not_wait_for_itself():
    """As a second attempt because the first one is late."""
    shared, source = Shared(), Source()

    async def twice():
        return await asyncio.gather(shared.get("q", "me", source), shared.get("q", "me", source))

    assert asyncio.run(twice()) == ["answer 1", "answer 2"]


def test_a_fault_is_its_own_askers():
    shared, source = Shared(), Source(faults=1)

    async def both():
        one = asyncio.create_task(shared.get("q", "a", source))
        await asyncio.sleep(0)
        other = asyncio.create_task(shared.get("q", "b", source))
        return await asyncio.gather(one, other, return_exceptions=True)

    first, second = asyncio.run(both())
    assert isinstance(first, OSError) and second == "answer 2" and source.calls == 2


def test_one_that_is_cancelled_leaves_the_others_an_answer():
    shared, source = Shared(), Source()

    async def run():
        one = asyncio.create_task(shared.get("q", "a", source))
        await asyncio.sleep(0)
        others = [asyncio.create_task(shared.get("q", name, source)) for name in "bcd"]
        await asyncio.sleep(0.01)
        one.cancel()
        answers = await asyncio.gather(*others)
        with pytest.raises(asyncio.CancelledError):
            await one
        # One that waits and is cancelled takes nothing from who asks.
        again = asyncio.create_task(shared.get("r", "a", source))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(shared.get("r", "b", source))
        await asyncio.sleep(0.01)
        waiting.cancel()
        return answers, await again

    answers, again = asyncio.run(run())
    assert all(a.startswith("answer") for a in answers) and again.startswith("answer")


def test_only_the_newest_are_kept():
    shared, source = Shared(kept=2), Source()

    async def run():
        for question in ("a", "b", "c"):
            await shared.get(question, "me", source)
        return [await shared.get(question, "you", source) for question in ("c", "a")]

    assert asyncio.run(run()) == ["answer 3", "answer 4"]
