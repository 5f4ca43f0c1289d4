"""The client against a server that fails in every way listed in docs/captions.md: what comes back, and when."""

import asyncio
import email.utils
import json
import ssl
import threading
import time

import pytest
import trustme

from mvgrpo_jax.enhancers.cleaning import clean
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.services import Failure, Service, Settings, Worker, keys
from tests.services import faults
from tests.services.faults import FaultServer, completion, raw, says, slow, status

MESSAGES = [{"role": "user", "content": "what is there?"}]
OK = "A red circle on a white background."
QUICK = {"model": "m", "attempt_s": 1.0, "request_s": 4.0, "batch_s": 6.0, "backoff_s": 0.05, "retries": 3, "hedge": 0.0}


def accept(text: str, finish: str) -> str:
    return clean(text, finish, "en")


def ask(*servers, times: int = 1, deadline_s: float | None = None, secret=None, answers=None, **settings):
    """(answers or Failures, seconds, counts) of requests made together."""
    urls = tuple(s if isinstance(s, str) else s.url for s in servers)
    service, worker = Service(Settings(**(QUICK | {"endpoints": urls} | settings)), secret), Worker()

    async def all_of_them():
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        work = (service.ask(MESSAGES, accept, seed=i, deadline=deadline, answers=answers) for i in range(times))
        return await asyncio.gather(*work, return_exceptions=True)

    try:
        began = time.monotonic()
        out = worker.submit(all_of_them()).result(20)
        seconds = time.monotonic() - began
        worker.submit(service.close()).result(5)
        return out, seconds, service.counts
    finally:
        worker.close()


# Fault -> the reason under which it is counted while it lasts. Each passes after two answers, or never.
PASSING = {
    "reset mid-body": (faults.reset, "error:connection"),
    "500": (status("500 Internal Server Error"), "error:server error"),
    "503": (status("503 Service Unavailable"), "error:server error"),
    "hang": (faults.hang, "error:timeout"),
    "slow drip": (faults.drip, "error:timeout"),
    "malformed JSON": (raw(b'{"choices": [{"mess'), "error:malformed"),
    "JSON of another kind": (raw(b'["a", 3]'), "error:malformed"),
    "content of another kind": (raw(completion("x").replace(b'"content": "x"', b'"content": {"a": 1}')), "error:malformed"),
    "empty choices": (raw(b'{"id": "x", "object": "chat.completion", "choices": []}'), "error:malformed"),
    "endless body": (faults.endless, "error:too large"),
    "compressed body": (raw(b"\x1f\x8b" + b"0" * 64, "content-encoding: gzip\r\n"), "error:too large"),
    "redirect": (status("302 Found", "location: http://127.0.0.1:9/v1\r\n"), "error:server error"),
    "wrong finish reason": (says(OK, "content_filter"), "rejected:finish reason content_filter"),
    "no content": (says(None), "rejected:empty"),
    "refusal": (says("I'm sorry, I cannot describe this picture."), "rejected:refusal"),
    "thinking without an end": (says("<think>" + "so then " * 3000, "length"), "rejected:unfinished thinking"),
    "thoughts beside an empty content": (
        raw(completion(None, "length").replace(b'"content": null', b'"content": null, "reasoning_content": "Well"')),
        "rejected:unfinished thinking",
    ),
    "nothing but hidden thoughts": (says(None, "length"), "rejected:no text within max_tokens"),
    "cut off in the first sentence": (says("A red circle on a white", "length"), "rejected:cut off"),
    "repetition": (says("a red a red " * 500), "rejected:repetition"),
    "another language": (says("\u767d\u8272\u80cc\u666f\u4e0a\u7684\u7ea2\u8272\u5706\u5708"), "rejected:language"),
}


@pytest.mark.parametrize("fault, counted", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_costs_retries_alone(fault, counted):
    with FaultServer(fault, fault, then=says(OK)) as server:
        out, _, counts = ask(server)
    assert out == [OK] and counts[counted] == 2 and counts["attempts"] == 3 and counts["answers"] == 1


@pytest.mark.parametrize("fault, counted", PASSING.values(), ids=PASSING)
def test_a_fault_that_stays_ends_in_a_failure_in_time(fault, counted):
    with FaultServer(then=fault) as server:
        (failure,), seconds, counts = ask(server)
    assert isinstance(failure, Failure) and seconds < QUICK["request_s"] + 1.0
    assert sum(n for name, n in counts.items() if name.startswith("failed:")) == 1 and not counts["answers"]
    assert counts[counted] >= 3 or failure.reason == "deadline"


def test_faults_and_rejected_answers_have_a_budget_each():
    script = [status("500 x"), says(None)] * 3
    with FaultServer(*script, then=says(OK)) as server:
        out, _, counts = ask(server, retries=3)
    assert out == [OK] and counts["attempts"] == 7 and counts["retries"] == 6
    # A fault is asked again with the same seed, a rejected answer with the next.
    assert [body["seed"] for _, body in server.requests] == [0, 0, 1, 1, 2, 2, 3]
    with FaultServer(*script, says(None), then=says(OK)) as server:
        (failure,), _, counts = ask(server, retries=3)
    assert failure.reason == "rejected" and failure.rejected == "empty" and counts["attempts"] == 7
    with FaultServer(status("500 x"), says("42"), then=says(OK)) as server:
        (failure,), _, _ = ask(server, answers=1)
    assert (failure.reason, failure.rejected, len(server.requests)) == ("rejected", "empty", 2)
    with FaultServer(*[status("500 x")] * 4, then=says(OK)) as server:
        (failure,), _, _ = ask(server, answers=1, retries=3)
    assert failure.reason == "server error" and failure.rejected == "" and len(server.requests) == 4


def test_an_answer_in_parts_is_their_text():
    parts = [{"type": "text", "text": OK[:9]}, {"type": "text", "text": OK[9:]}]
    body = completion("x").replace(b'"content": "x"', b'"content": ' + json.dumps(parts).encode())
    assert body != completion("x")
    with FaultServer(then=raw(body)) as server:
        (answer,), _, counts = ask(server)
    assert answer == OK and counts["attempts"] == 1


def test_a_caption_of_100_kb_is_cut_to_a_paragraph():
    text = "A red circle on a white background, seen from above. " * 2000
    with FaultServer(then=says(text + "\n\nAnd more.")) as server:
        (failure,), _, counts = ask(server, retries=0)  # it says the same over and over
    assert failure.reason == "rejected" and counts["rejected:repetition"] == 1
    words = " ".join(f"the w{i}" for i in range(15_000))
    with FaultServer(then=says(words)) as server:
        (out,), _, _ = ask(server)
    assert len(words) > 100_000 and 3900 < len(out) <= 4000
    with FaultServer(then=says(words)) as server:
        (failure,), _, _ = ask(server, response_kb=64)
    assert failure.reason == "too large"


def test_a_refused_connection():
    with FaultServer() as server:
        url = server.url
    (failure,), _, counts = ask(url)
    assert failure.reason == "connection" and counts["attempts"] == 4


def test_retry_after_is_kept_in_both_forms():
    for value in ("1", None):
        value = value or email.utils.formatdate(time.time() + 2, usegmt=True)
        with FaultServer(status("429 Too Many Requests", f"retry-after: {value}\r\n"), then=says(OK)) as server:
            out, seconds, counts = ask(server)
        assert out == [OK] and seconds > 0.9 and counts["error:busy"] == 1
    with FaultServer(then=status("429 Too Many Requests", "retry-after: 3600\r\n")) as server:
        (failure,), seconds, _ = ask(server)
    assert (
        failure.reason == "deadline"
        and "too many requests" in str(failure)
        and QUICK["request_s"] - 0.1 < seconds < QUICK["request_s"] + 1.0
    )
    assert len(server.requests) == 1  # it was left alone as it asked


def test_what_cannot_be_mended_is_not_repeated():
    for line, said in (("401 Unauthorized", "401"), ("404 Not Found", "404"), ("400 Bad Request", "400")):
        with FaultServer(then=status(line)) as server:
            (failure,), _, _ = ask(server)
        assert said in str(failure) and len(server.requests) == 1


def test_tls_of_another_host_and_of_an_unknown_authority(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for host, ca, ok in (("127.0.0.1", "ca.pem", True), ("other.example", "ca.pem", False), ("127.0.0.1", "", False)):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(host).configure_cert(context)
        with FaultServer(then=says(OK), context=context) as server:
            (out,), _, _ = ask(server, ca_file=str(tmp_path / ca) if ca else "")
        if ok:
            assert out == OK
        else:
            assert out.reason == "refused" and "certificate is not trusted" in str(out) and not server.requests


def test_another_endpoint_takes_over_and_the_broken_one_is_left_alone():
    with FaultServer(then=status("500 x")) as broken, FaultServer(then=says(OK)) as sound:
        out, _, _ = ask(broken, sound, times=40, concurrency=4, breaker=3, cooldown_s=60.0)
    assert out == [OK] * 40
    assert len(broken.requests) <= 3 + 4 and sound.most <= 4  # until the breaker opened, what was in flight


def test_the_breaker_lets_one_request_try_and_closes_again():
    with FaultServer(*[status("500 x")] * 3, then=says(OK)) as server:
        out, seconds, _ = ask(server, times=8, concurrency=8, breaker=3, cooldown_s=0.3, retries=8)
    assert out == [OK] * 8 and seconds > 0.3


def test_requests_are_spread_by_load_and_bounded():
    with FaultServer(then=slow(0.02, OK)) as quick, FaultServer(then=slow(0.4, OK)) as lazy:
        out, _, _ = ask(quick, lazy, times=120, concurrency=4)
    assert out == [OK] * 120 and quick.most <= 4 and lazy.most <= 4
    assert len(quick.requests) > 2 * len(lazy.requests)


def test_a_straggler_is_hedged():
    with FaultServer(*[slow(0.01, OK)] * 32, slow(30.0, "late"), then=slow(0.01, OK)) as server:
        out, seconds, counts = ask(server, times=40, concurrency=2, hedge=3.0, attempt_s=40.0, request_s=40.0, batch_s=40.0)
    assert out == [OK] * 40 and counts["hedges"] >= 1 and counts["hedges_won"] >= 1 and seconds < 30.0


def test_the_batch_deadline_holds_for_what_waits_too():
    with FaultServer(then=slow(0.3, OK)) as server:
        out, seconds, _ = ask(server, times=20, concurrency=2, deadline_s=1.5)
    done = [o for o in out if o == OK]
    assert 1 <= len(done) <= 10 and all(o == OK or o.reason == "deadline" for o in out) and seconds < 1.5 + 1.0


def test_requests_carry_model_seed_and_further_fields():
    extra = '{"chat_template_kwargs": {"enable_thinking": false}, "top_k": 20}'
    with FaultServer(then=says(OK)) as server:
        ask(server, times=2, extra=extra, temperature=0.5, max_tokens=17)
    bodies = sorted((body for _, body in server.requests), key=lambda b: b["seed"])
    assert [b["seed"] for b in bodies] == [0, 1]
    assert bodies[0]["model"] == "m" and bodies[0]["temperature"] == 0.5 and bodies[0]["max_tokens"] == 17
    assert bodies[0]["top_k"] == 20 and bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_closing_ends_the_thread_and_what_is_under_way():
    before = set(threading.enumerate())
    with FaultServer(then=faults.hang) as server:
        service, worker = Service(Settings(**(QUICK | {"endpoints": (server.url,)}))), Worker()
        future = worker.submit(service.ask(MESSAGES, accept))
        time.sleep(0.1)
        worker.close()
        assert future.cancelled() or future.exception() is not None
    assert set(threading.enumerate()) <= before


def test_a_key_goes_to_the_server_and_nowhere_else(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CAPTION_KEY", "sk-very-secret-123")
    with FaultServer(then=says(OK)) as server:
        assert ask(server, secret=keys.read("CAPTION_KEY", ""))[0] == [OK]
    assert server.requests[0][0]["authorization"] == "Bearer sk-very-secret-123"
    path = tmp_path / "key"
    path.write_text("sk-from-file\n")
    path.chmod(0o600)
    assert keys.read("", str(path)).reveal() == "sk-from-file"
    path.chmod(0o640)
    with pytest.raises(UserError, match="others may read it .mode 0640.*chmod 600"):
        keys.read("", str(path))
    with pytest.raises(UserError, match="OTHER.*is not set"):
        keys.read("OTHER", "")
    with pytest.raises(UserError) as error:
        keys.read("sk-very-secret-123", "")  # the key itself where its variable's name belongs
    assert "not the key itself" in str(error.value) and "very-secret" not in str(error.value)
    with FaultServer(then=status("401 Unauthorized")) as server:
        (failure,), _, _ = ask(server, secret=keys.read("CAPTION_KEY", ""))
    shown = "".join(capfd.readouterr()) + str(failure) + repr(keys.read("CAPTION_KEY", ""))
    assert "very-secret" not in shown


def test_processes_share_the_places_at_an_endpoint():
    places = [Settings.of({"model": "m", "concurrency": 10, "count": 3}, n).concurrency for n in (1, 2, 3, 16)]
    assert places == [10, 5, 3, 1]


def test_settings_are_checked():
    for values, message in (
        ({"attempt_s": 9.0, "request_s": 1.0}, "attempt_s <= request_s <= batch_s"),
        ({"endpoints": ("localhost:8000",)}, "expected http://HOST:PORT/v1"),
        ({"endpoints": ("http://user:pass@localhost/v1",)}, "must not carry credentials"),
        ({"endpoints": ()}, "at least one endpoint"),
        ({"model": ""}, "needs a model"),
        ({"extra": "{broken"}, "not valid JSON"),
        ({"extra": "[1]"}, "must be a JSON object"),
        ({"concurrency": 0}, "concurrency"),
    ):
        with pytest.raises(UserError, match=message):
            Settings(**(QUICK | values))
    with pytest.warns(UserWarning, match="plain HTTP to another machine"):
        Settings(**(QUICK | {"endpoints": ("http://captioner.example:8000/v1",)}))
