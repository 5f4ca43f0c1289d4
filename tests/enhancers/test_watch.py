"""Whether a service works is judged over all prompts; causes become advice."""

import asyncio
import collections

import numpy as np
import pytest

from mvgrpo_jax.enhancers import causes
from mvgrpo_jax.enhancers.watch import Watch, reason
from mvgrpo_jax.services import Failure

RNG = np.random.default_rng(0)


class Scripted:
    """Answers, None and Failures one by one; asked: (prompt, operation) of each."""

    def __init__(self, *script):
        self.script, self.asked = list(script), []

    async def rewrite(self, prompt, operation, memory, rng):
        self.asked.append((prompt, operation))
        item = self.script.pop(0)
        if isinstance(item, Failure):
            raise item
        return item


def test_a_service_works_when_another_prompt_was_answered_or_an_old_question_is():
    rewriter = Scripted("x", "y", Failure("rejected"), None, "z", Failure("connection"), Failure("refused"))
    watch = Watch(rewriter, proofs={"old": "deletion"})

    async def run():
        assert await watch.ask("a", "addition", ["a"], RNG) == "x"
        assert await watch.works("b", 0) and len(rewriter.asked) == 1  # somebody was answered: nothing is asked
        await watch.ask("b", "rewriting", ["b"], RNG)
        # Nobody since: the question of another prompt, again where the answer was no good.
        assert await watch.works("b", 2) and rewriter.asked[2:] == [("a", "addition")] * 3 and watch.answered == 3
        assert not await watch.works("b", 3)  # a fault shows nothing
        with pytest.raises(Failure):
            await watch.works("b", 3)  # an endpoint that refuses ends all

    asyncio.run(run())
    assert set(watch.proofs) == {"a", "b"}  # the newest two


def test_without_an_old_question_nothing_shows_that_it_works():
    rewriter = Scripted()
    assert not asyncio.run(Watch(rewriter).works("a", 0)) and not rewriter.asked


def test_prompts_that_wait_ask_one_question_together():
    rewriter = Scripted("x")
    watch = Watch(rewriter, proofs={"old": "deletion"})

    async def run():
        return await asyncio.gather(*(watch.works(f"p{i}", 0) for i in range(100)))

    assert asyncio.run(run()) == [True] * 100 and rewriter.asked == [("old", "deletion")]


def test_silence_is_counted_from_the_last_answer_of_use(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mvgrpo_jax.enhancers.watch.time.monotonic", lambda: now[0])
    watch = Watch(Scripted("x", None), give_up_s=5.0)
    now[0] = 104.0
    assert watch.left() == 1.0 and not watch.over()

    for text in ("x", None):
        assert asyncio.run(watch.ask("a", "addition", ["a"], RNG)) == text
        now[0] += 3.0
    assert watch.left() == 0.0 and watch.over()  # 110; None, at 107, was of no use, and 104 is six seconds ago
    assert Watch(Scripted()).left() is None and not Watch(Scripted()).over()


def test_reasons_become_advice():
    assert reason(Failure("rejected", "cut off (the last of 1 attempts)", "cut off")) == "rejected: cut off"
    assert (reason(Failure("busy")), reason(Failure("bad request"))) == ("error: busy", "bad request")
    counted = collections.Counter({"rejected: cut off": 70, "error: timeout": 25, "error: busy": 5})
    assert causes.listed(counted, 2) == "70 rejected: cut off, 25 error: timeout"
    advice = causes.remedy(counted)
    assert "--max-tokens" in advice and "--attempt-s" in advice and "turns requests away" not in advice
    assert "filters" in causes.remedy(collections.Counter({"rejected: finish reason content_filter": 1}))
    assert causes.remedy(collections.Counter()) == ""
