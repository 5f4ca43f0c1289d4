"""When a prompt is finished, and what leads to another draw: rewriters without a server, whose failures are given."""

import asyncio
import collections

import numpy as np
import pytest

from mvgrpo_jax.enhancers import drafting
from mvgrpo_jax.enhancers.drafting import enhance_prompts
from mvgrpo_jax.enhancers.watch import Watch
from mvgrpo_jax.services import Failure

PROMPTS = [f"a fox number {i} in a quiet forest" for i in range(6)]


class Model:
    """Answers from the draw alone. before(self, prompt, number of the call) may raise."""

    def __init__(self, before=lambda model, prompt, number: None):
        self.before, self.calls, self.draws = before, collections.Counter(), []

    async def rewrite(self, prompt, operation, memory, rng):
        draw = int(rng.integers(2**31))
        self.draws.append((prompt, operation, draw))
        self.calls[prompt] += 1
        number = self.calls.total()
        await asyncio.sleep(0)
        self.before(self, prompt, number)
        return f"{draw} {operation} {draw}"


def captions(model, prompts=PROMPTS, in_flight=6, **options):
    """(prompt -> Enhanced, the Failure that ended it or None)."""
    found = {}

    async def run():
        try:
            async for item in enhance_prompts(prompts, Watch(model, **options), 3, 0, in_flight=in_flight):
                found[item.prompt] = item
        except Failure as failure:
            return failure

    return found, asyncio.run(asyncio.wait_for(run(), 60))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(drafting, "LONGEST_PAUSE", 0.0)


def raises(reason):
    raise Failure(reason, rejected="meaning" if reason == "rejected" else "")


def test_faults_change_no_caption():
    calm, _ = captions(Model())
    fate = np.random.default_rng(0).random(200) < 0.25
    model = Model(lambda model, prompt, number: raises("connection") if fate[number] else None)
    shaken, stop = captions(model)
    assert stop is None and {p: e.captions for p, e in shaken.items()} == {p: e.captions for p, e in calm.items()}
    assert all(len(e.captions) == 3 and e.finished for e in shaken.values())
    calls = model.calls.total()
    assert calls >= 3 * 6 + fate[1 : calls + 1].sum() > 3 * 6  # each fault cost a call


def test_a_service_that_turns_useless_finishes_no_prompt_under_way():
    """All six are between their first and their third caption then, and others were answered while they tried."""
    found, stop = captions(Model(lambda model, prompt, number: raises("rejected") if number > 12 else None))
    assert stop is None and all(1 <= len(e.captions) < 3 and not e.finished for e in found.values()) and len(found) == 6
    assert all(e.reasons == {"rejected: meaning": drafting.EFFORT} for e in found.values())


@pytest.mark.parametrize("reason, calls", [("rejected", 90), ("bad request", 90), ("server error", 15)])
@pytest.mark.parametrize("in_flight", [1, 6])
def test_a_prompt_that_fails_alone_is_finished_with_what_it_has(reason, calls, in_flight):
    """calls: 90 rejected answers, or three draws asked five times each. With one prompt at a time nobody else is answered
    meanwhile but the control question, which is the first prompt's here."""
    odd = PROMPTS[1]
    model = Model(lambda model, prompt, number: raises(reason) if prompt == odd and model.calls[odd] > 1 else None)
    found, stop = captions(model, in_flight=in_flight)
    assert stop is None and all(e.finished for e in found.values())
    assert {p: len(e.captions) for p, e in found.items()} == {p: 1 if p == odd else 3 for p in PROMPTS}
    draws = len({d for d in model.draws if d[0] == odd}) - 1
    assert draws == (3 if reason == "server error" else 90)
    assert model.calls[odd] - 1 == calls if in_flight == 1 else model.calls[odd] - 1 >= calls


def test_a_prompt_without_captions_is_not_finished_though_others_are():
    found, _ = captions(Model(lambda model, prompt, number: raises("rejected") if prompt == PROMPTS[0] else None))
    assert {p: e.finished for p, e in found.items()} == {p: p != PROMPTS[0] for p in PROMPTS} and not found[PROMPTS[0]].captions


@pytest.mark.parametrize("reason", ["connection", "deadline", "busy"])
def test_silence_ends_the_run_and_refusal_ends_it_at_once(reason):
    found, stop = captions(Model(lambda model, prompt, number: raises(reason) if number > 10 else None), give_up_s=0.3)
    assert stop.reason == "silent" and "no answer of use for 0.3 s" in str(stop) and all(e.finished for e in found.values())
    model = Model(lambda model, prompt, number: raises("refused") if number > 12 else None)
    found, stop = captions(model, in_flight=2)
    assert stop.reason == "refused" and len(model.draws) <= 14 and len(found) == 4 == sum(e.finished for e in found.values())


def test_other_prompts_change_no_caption():
    both, _ = captions(Model())
    alone, _ = captions(Model(), PROMPTS[2:3])
    assert alone[PROMPTS[2]].captions == both[PROMPTS[2]].captions
