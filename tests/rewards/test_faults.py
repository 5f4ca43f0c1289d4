"""Judges elsewhere against servers that fail in every way, over real sockets: what cannot be had is left out, and counted with
its reason; what passes costs retries alone."""

import json
import time

import numpy as np
import pytest

from mvgrpo_jax import rewards
from tests.services import faults
from tests.services.faults import FaultServer, completion, http, raw, says, slow, status

QUICK = {"attempt_s": 0.6, "request_s": 4.0, "batch_s": 8.0, "backoff_s": 0.02, "retries": 1, "hedge": 0.0, "cooldown_s": 0.1}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), np.uint8)
TEXTS = [["a", "b"], ["c", None]]
V2 = "Alignment Score (1-5): {}\nCoherence Score (1-5): 3\nStyle Score (1-5): 4.5"


def logprobs(**tokens) -> bytes:
    """A completion of one token with the log-probabilities of its candidates."""
    body = json.loads(completion("Yes", "length"))
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in tokens.items()]
    body["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "logprob": -0.1, "bytes": None, "top_logprobs": top}]}
    return json.dumps(body).encode()


def scored(value) -> bytes:
    return json.dumps({"scores": value}).encode()


async def good_scores(writer, request):
    writer.write(http(scored([[0.5 if t else None for t in row] for row in request["captions"]])))


# Kind -> (a good answer, the scores that it gives)
GOOD = {
    "unifiedreward": (says(V2.format(3)), 3.5),
    "vlm": (raw(logprobs(Yes=-1.0, No=-1.0)), 0.5),
    "http": (good_scores, 0.5),
}
# Of every kind: fault -> the reason
FAULTS = {
    "500": (status("500 Internal Server Error"), "server_error"),
    "503": (status("503 Service Unavailable"), "server_error"),
    "redirect": (status("302 Found", "location: http://127.0.0.1:9/\r\n"), "server_error"),
    "hang": (faults.hang, "timeout"),
    "slow": (slow(1.5), "timeout"),
    "slow drip": (faults.drip, "timeout"),
    "reset mid-body": (faults.reset, "connection"),
    "truncated JSON": (raw(b'{"choices": [{"mess'), "malformed"),
    "no JSON": (raw(b"<html>Bad gateway</html>"), "malformed"),
    "endless": (faults.endless, "too_large"),
    "compressed": (raw(b"\x1f\x8b" + b"0" * 64, "content-encoding: gzip\r\n"), "too_large"),
}
# Of a kind: answer -> the reason, which no retry mends
ANSWERS = {
    "unifiedreward": {
        "empty body": (raw(b""), "malformed"),
        "wrong fields": (raw(b'{"scores": [[1]]}'), "malformed"),
        "JSON of another kind": (raw(b'["a", 3]'), "malformed"),
        "no choices": (raw(b'{"id": "x", "object": "chat.completion", "choices": []}'), "malformed"),
        "no content": (says(None), "no_score"),
        "text without a score": (says("It is a nice picture."), "no_score"),
        "a score that is missing": (says("Alignment Score (1-5): 3\nCoherence Score (1-5): 3"), "no_score"),
        "NaN": (says(V2.format("nan")), "no_score"),
        "10": (says(V2.format(10)), "out_of_range"),
        "cut off": (says("Alignment Score (1-5): 3\nCoherence", "length"), "cut_off"),
        "thinking": (says("<think>Alignment Score (1-5): 3", "length"), "unfinished_thinking"),
    },
    "vlm": {
        "empty body": (raw(b""), "malformed"),
        "wrong fields": (raw(b'{"scores": [[1]]}'), "malformed"),
        "no log-probabilities": (says("Yes"), "malformed"),
        "no candidates": (raw(logprobs()), "malformed"),
        "neither word": (raw(logprobs(The=-0.1, Yesterday=-2.0)), "neither_yes_nor_no"),
        "NaN": (raw(logprobs(Yes=float("nan"))), "malformed"),
    },
    "http": {
        "empty body": (raw(b""), "malformed"),
        "wrong fields": (raw(b'{"rewards": [[1]]}'), "no_scores"),
        "JSON of another kind": (raw(b'["a", 3]'), "no_scores"),
        "too few scores": (raw(scored([[1.0, 2.0]])), "wrong_number_of_scores"),
        "too many scores": (raw(scored([[1.0, 2.0, 3.0]] * 2)), "wrong_number_of_scores"),
        "scores of another kind": (raw(scored([["a", "b"], [1, 2]])), "a_score_that_is_no_number"),
        "NaN": (raw(scored([[float("nan")] * 2] * 2)), "null"),
        "null": (raw(scored([[None] * 2] * 2)), "null"),
    },
}
CASES = [(kind, name, *fault, True) for kind in GOOD for name, fault in FAULTS.items()]
CASES += [(kind, name, *fault, False) for kind, answers in ANSWERS.items() for name, fault in answers.items()]


def judge(kind, *urls, **options):
    own = {"model": "m"} if kind == "vlm" else {}
    return rewards.make(kind, QUICK | own | {"endpoints": urls} | options)


def asked(kind, *urls, **options):
    """(scores, valid, log, seconds)"""
    it, began = judge(kind, *urls, **options), time.monotonic()
    try:
        scores, valid = it.score(IMAGES, TEXTS)
        return scores, valid, it.take_log(), time.monotonic() - began
    finally:
        it.close()


@pytest.mark.parametrize("kind, name, fault, reason, passes", CASES, ids=[f"{c[0]}: {c[1]}" for c in CASES])
def test_what_stays_is_left_out_and_counted(kind, name, fault, reason, passes):
    with FaultServer(then=fault) as server, pytest.warns(UserWarning, match="3 of 3 scores did not come"):
        scores, valid, log, _ = asked(kind, server.url)
    assert not valid.any() and (scores == 0).all()
    assert log["asked"] == log["missing"] == 3 and sum(n for k, n in log.items() if k.startswith("missing/")) == 3
    assert log.get(f"missing/{reason}", 0) + (log.get("missing/deadline", 0) if passes else 0) == 3


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("name", ["500", "hang", "reset mid-body", "truncated JSON"])
def test_what_passes_costs_a_retry(kind, name):
    good, want = GOOD[kind]
    with FaultServer(FAULTS[name][0], then=good) as server:
        scores, valid, log, _ = asked(kind, server.url, concurrency=1, attempt_s=2.0, request_s=10.0, batch_s=20.0)
    np.testing.assert_array_equal(valid, [[True, True], [True, False]])
    np.testing.assert_allclose(scores, want * valid)
    assert log["missing"] == 0 and log["retries"] == 1


@pytest.mark.parametrize("kind", GOOD)
def test_too_many_requests_are_asked_again_when_the_server_says(kind):
    good, want = GOOD[kind]
    busy = status("429 Too Many Requests", "retry-after: 1\r\n")
    with FaultServer(busy, then=good) as server:
        scores, valid, log, seconds = asked(kind, server.url, concurrency=1, attempt_s=2.0, request_s=10.0, batch_s=20.0)
    assert valid.sum() == 3 and seconds > 0.9 and log["retries"] == 1


@pytest.mark.parametrize("kind", GOOD)
def test_nobody_listens_or_the_key_is_wrong(kind):
    with FaultServer() as server:
        url = server.url
    with pytest.warns(UserWarning, match="3 connection"):
        *_, log, _ = asked(kind, url)
    assert log["missing/connection"] == 3
    for line, reason in (("401 Unauthorized", "refused"), ("404 Not Found", "refused"), ("413 Too Large", "bad_request")):
        with FaultServer(then=status(line)) as server, pytest.warns(UserWarning, match=line[:3]):
            *_, log, _ = asked(kind, server.url, concurrency=1)
        assert log[f"missing/{reason}"] == 3 and len(server.requests) <= (1 if reason == "refused" else 3)


@pytest.mark.parametrize("kind", GOOD)
def test_another_endpoint_gives_all_scores(kind):
    good, want = GOOD[kind]
    with FaultServer(then=status("500 x")) as broken, FaultServer(then=good) as sound:
        scores, valid, log, _ = asked(kind, broken.url, sound.url, attempt_s=2.0, request_s=10.0, batch_s=20.0)
    assert valid.sum() == 3 and log["missing"] == 0


@pytest.mark.parametrize("kind", GOOD)
def test_some_scores_come_and_others_do_not(kind):
    good, want = GOOD[kind]
    with FaultServer(status("400 Bad Request"), then=good) as server, pytest.warns(UserWarning, match="bad request"):
        scores, valid, log, _ = asked(kind, server.url, concurrency=1, **({"batch": 1} if kind == "http" else {}))
    assert 1 <= valid.sum() <= 2 and log["missing"] == log["missing/bad_request"] == 3 - valid.sum()
    np.testing.assert_allclose(scores, want * valid)


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize(
    "images", [np.zeros((2, 1, 1, 3), np.uint8), np.ones((2, 1, 9, 3), np.float32)], ids=["uint8", "float"]
)
def test_the_smallest_pictures_travel(kind, images):
    with FaultServer(then=GOOD[kind][0]) as server:
        it = judge(kind, server.url)
        assert it.score(images, TEXTS).valid.sum() == 3
        it.close()


def test_probabilities_by_hand():
    """Of yes and no in whatever case and with spaces, over all their tokens; others do not count."""
    tokens = {
        " yes": -1.0,
        "Yes": -2.0,
        "YES.": -3.0,
        "no": -1.5,
        "\u0120No": -2.5,
        "yesterday": -0.5,
        "nothing": -0.6,
        "not": -4,
    }
    with FaultServer(then=raw(logprobs(**tokens))) as server:
        it = judge("vlm", server.url)
        scores, _ = it.score(IMAGES, TEXTS)
        log = it.take_log()
        it.close()
    yes, no = np.exp([-1.0, -2.0, -3.0]).sum(), np.exp([-1.5, -2.5]).sum()
    np.testing.assert_allclose(scores, [[yes / (yes + no)] * 2, [yes / (yes + no), 0]], rtol=1e-6)
    assert log["yes_or_no"] == pytest.approx(yes + no)
    body = server.requests[0][1]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (True, 20, 1, 0.0)
    asked_about = sorted(b["messages"][0]["content"][1]["text"] for _, b in server.requests)
    assert [text.split("Text: ")[1][0] for text in asked_about] == ["a", "b", "c"]
