"""The enhance command against services that fail now and then, that answer nothing of use, or that fail one prompt alone."""

import hashlib
import itertools
import json
import re

import numpy as np
import pytest

from mvgrpo_jax import enhance
from mvgrpo_jax.enhancers import FileEnhancer
from mvgrpo_jax.errors import UserError
from tests.services import faults
from tests.services.faults import FaultServer, completion, http, raw, says, status

THINGS = ("red fox", "wooden boat", "stone bridge", "silver kettle", "yellow tram")
PLACES = (
    "a quiet forest",
    "a busy harbour",
    "an empty square",
    "a warm kitchen",
    "a steep valley",
    "a small garden",
    "a field",
    "fog",
)
PROMPTS = [f"a {thing} in {place} number {i}" for i, (thing, place) in enumerate(itertools.product(THINGS, PLACES))]
MORE = ["at dawn", "under tall pines", "with soft light", "near a river", "after heavy rain", "beside ferns", "seen from above"]


def asked(request) -> tuple[str, str]:
    """(operation, prompt) of a request."""
    text = request["messages"][1]["content"]
    kind = "addition" if "with one or two details more" in text else "deletion" if "without one or two" in text else "rewriting"
    return kind, re.search(r"^Prompt: (.*)$", text, re.MULTILINE)[1]


def rewritten(request, stubborn: str = "deletion") -> str:
    """What a model answers, from the seed and the prompt alone; it never does the `stubborn` operation as asked."""
    operation, prompt = asked(request)
    rng = np.random.default_rng(request["seed"])
    longer = f"{prompt} {' and '.join(rng.permutation(MORE)[:3])}"
    if operation == "addition" or operation == stubborn:
        return longer
    if operation == "deletion":
        return prompt.partition(" in ")[0]
    return f"somewhere {rng.permutation(MORE)[0]}, {prompt}"


async def model(writer, request):
    writer.write(http(completion(rewritten(request))))


async def closes(writer, request):
    writer.transport.abort()


FAULTS = [
    status("500 Internal Server Error"),
    status("429 Too Many Requests"),
    raw(b'{"choices": [{"mess'),
    raw(b'{"id": "x", "object": "chat.completion", "choices": []}'),
    closes,
    faults.reset,
    faults.hang,
]


def failing(share: float, then=model):
    """A reply that meets a fault of FAULTS with probability `share`."""
    rng = np.random.default_rng(5)

    async def reply(writer, request):
        fault = FAULTS[rng.integers(len(FAULTS))] if rng.random() < share else then
        await fault(writer, request)

    return reply


def thinking(text=None, finish="length", **fields):
    """An answer of a server in thinking mode."""
    body = json.loads(completion(text, finish))
    body["choices"][0]["message"] |= fields
    return raw(json.dumps(body).encode())


def flags(server, prompts, out, *more):
    quick = ["--attempt-s", "1", "--request-s", "20", "--give-up-s", "30", "--backoff-s", "0.05", "--cooldown-s", "0.2"]
    return ["--prompts", str(prompts), "--out", str(out), "--k", "3", "--endpoint", server.url, "--model", "m", *quick, *more]


def lines_of(out) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture
def few(tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("\n".join(PROMPTS[:3]))
    return path


def stops(capsys, *words) -> str:
    """What the command says on stderr when it ends with status 2."""
    with pytest.raises(SystemExit) as stop:
        enhance.main(*words)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_one_request_in_four_fails_and_one_operation_in_three_is_never_done(prompts, tmp_path, capsys):
    out, calm = tmp_path / "c.jsonl", tmp_path / "calm.jsonl"
    with FaultServer(then=failing(0.25)) as server:
        enhance.main(flags(server, prompts, out))
    lines = lines_of(out)
    assert {line["prompt"] for line in lines} == set(PROMPTS) and len(lines) == 40
    assert all(len({c["text"] for c in line["captions"]}) == 3 for line in lines)
    said = capsys.readouterr().out
    counts = json.loads((tmp_path / "c.jsonl.summary.json").read_text())["service"]
    assert counts["rejected:length"] > 20 and counts["error:server error"] > 0 and counts["error:busy"] > 0
    assert f"{counts['error:malformed']} error: malformed" in said and f"{counts['rejected:length']} rejected: length" in said
    # A fault is asked again with the same seed, so that the captions are those of a service without faults.
    with FaultServer(then=model) as server:
        enhance.main(flags(server, prompts, calm))
    assert sorted(calm.read_text().splitlines()) == sorted(out.read_text().splitlines())


@pytest.mark.parametrize(
    "answer, cause",
    [
        (thinking(None, "length", reasoning_content="The user wants me to rewrite"), "unfinished thinking"),
        (thinking(None, "stop", reasoning="The user wants me to rewrite the caption."), "unfinished thinking"),
        (thinking(None, "length"), "no text within max_tokens"),
        (thinking("<think>So the user wants this: " + "so then " * 300), "unfinished thinking"),
        (thinking(f"Okay, the user wants me to rewrite {PROMPTS[0]} at dawn and near a river. First I"), "unfinished thinking"),
    ],
)
def test_a_server_in_thinking_mode_is_named_and_nothing_counts_as_finished(answer, cause, few, tmp_path, capsys):
    out = tmp_path / "c.jsonl"
    with FaultServer(then=answer) as server:
        said = stops(capsys, flags(server, few, out))
        assert "3 of 3 prompts are not finished" in said and f"rejected: {cause}" in said
        assert (
            "--extra" in said
            and "enable_thinking" in said
            and len(server.requests) >= 3 * 90
            and "--max-tokens" in said
            and "go on" in said
        )
    assert out.read_text() == ""
    with pytest.raises(UserError, match="no captions for 3 of 3 .*python -m mvgrpo_jax.enhance"):
        FileEnhancer.load(str(out), 3, 0, PROMPTS[:3])
    with FaultServer(then=model) as server:
        enhance.main(flags(server, few, out))
    assert sorted(len(line["captions"]) for line in lines_of(out)) == [3, 3, 3]


def test_a_file_with_prompts_that_have_no_captions_is_mended(few, tmp_path):
    out = tmp_path / "c.jsonl"
    kept = json.dumps({"prompt": PROMPTS[1], "captions": [{"text": "a fox", "operation": "deletion"}]})
    out.write_text(json.dumps({"prompt": PROMPTS[0], "captions": []}) + "\n" + kept + "\n")
    with FaultServer(then=model) as server:
        enhance.main(flags(server, few, out))
    lines = lines_of(out)
    assert json.dumps(lines[0]) == kept and sorted(line["prompt"] for line in lines) == sorted(PROMPTS[:3])
    assert sorted(len(line["captions"]) for line in lines) == [1, 3, 3]


@pytest.mark.parametrize(
    "fault, reason",
    [
        (faults.hang, "timeout"),
        pytest.param(status("500 x"), "server error", marks=pytest.mark.nightly),
        pytest.param(status("429 x"), "busy", marks=pytest.mark.nightly),
        pytest.param(closes, "connection", marks=pytest.mark.nightly),
    ],
)
def test_a_silent_service_ends_the_run_after_the_stated_time(fault, reason, prompts, tmp_path, capsys):
    """Ten prompts' worth of answers, then none."""
    out = tmp_path / "c.jsonl"
    with FaultServer(*[model] * 60, then=fault) as server:
        said = stops(capsys, flags(server, prompts, out, "--give-up-s", "2", "--in-flight", "4"))
    assert "no answer of use for 2 s (--give-up-s)" in said and reason in said and "run the same command to go on" in said
    lines = lines_of(out)
    assert 1 <= len(lines) < 40 and all(len(line["captions"]) == 3 for line in lines)


def test_a_service_that_comes_back_in_time_is_waited_for(few, tmp_path):
    """More faults in a row than one request has attempts."""
    out = tmp_path / "c.jsonl"
    with FaultServer(*[status("500 x")] * 4, then=model) as server:
        enhance.main(flags(server, few, out, "--retries", "0", "--in-flight", "1"))
    assert sorted(len(line["captions"]) for line in lines_of(out)) == [3, 3, 3]


def test_one_refusing_endpoint_ends_the_run_at_once(few, tmp_path, capsys):
    for line in ("401 Unauthorized", "404 Not Found"):
        with FaultServer(then=status(line)) as server:
            said = stops(capsys, flags(server, few, tmp_path / "c.jsonl", "--in-flight", "1"))
        assert len(server.requests) == 1 and f"refused with status {line[:3]}" in said and "--model" in said


def only_for(prompt, reply, captions: int = 0):
    """`reply` for requests about one prompt that has so many captions; the model for the others."""

    async def choose(writer, request):
        written = request["messages"][1]["content"].count("\n- ")
        await (reply if asked(request)[1] == prompt and written >= captions else model)(writer, request)

    return choose


@pytest.mark.parametrize(
    "reply",
    [
        says("I'm sorry, I cannot do that."),
        status("400 Bad Request"),
        pytest.param(status("500 x"), marks=pytest.mark.nightly),
    ],
)
def test_a_prompt_that_cannot_have_more_is_written_with_what_it_has(reply, few, tmp_path, capsys):
    """The others are long finished: a question that was answered once shows that the service works."""
    out = tmp_path / "c.jsonl"
    with FaultServer(then=only_for(PROMPTS[2], reply, captions=1)) as server:
        more = ["--retries", "0", "--seed", "1", "--in-flight", "1"]
        enhance.main(flags(server, few, out, *more))
    assert {line["prompt"]: len(line["captions"]) for line in lines_of(out)} == {PROMPTS[0]: 3, PROMPTS[1]: 3, PROMPTS[2]: 1}
    assert "1 prompts have fewer than 3 different captions" in capsys.readouterr().out


def test_a_prompt_without_any_caption_is_not_finished(few, tmp_path, capsys):
    out = tmp_path / "c.jsonl"
    with FaultServer(then=only_for(PROMPTS[0], says("I'm sorry, I cannot do that."))) as server:
        said = stops(capsys, flags(server, few, out, "--in-flight", "1"))
    assert "1 of 3 prompts are not finished" in said and "rejected: refusal" in said and PROMPTS[0] in said
    assert {line["prompt"] for line in lines_of(out)} == set(PROMPTS[1:3])


def test_repeats_exhaust_a_prompt(few, tmp_path):
    """A model that always says the same."""
    out = tmp_path / "c.jsonl"

    async def same(writer, request):
        writer.write(http(completion(f"{asked(request)[1]} at dawn near a river")))

    with FaultServer(then=same) as server:
        enhance.main(flags(server, few, out))
    assert [len(line["captions"]) for line in lines_of(out)] == [1, 1, 1]


@pytest.mark.nightly
def test_a_model_that_turns_useless_leaves_no_short_prompts(few, prompts, tmp_path, capsys):
    """Two captions of the first prompt came; that it has no third is the service's doing, and it is done anew."""
    out, many = tmp_path / "c.jsonl", tmp_path / "many.jsonl"
    with FaultServer(*[model] * 3, then=thinking(None, reasoning="hm")) as server:
        said = stops(capsys, flags(server, few, out, "--in-flight", "1"))
    assert "3 of 3 prompts are not finished" in said and out.read_text() == ""
    with FaultServer(*[model] * 150, then=thinking(None, reasoning="hm")) as server:  # all are under way
        said = stops(capsys, flags(server, prompts, many, "--give-up-s", "10"))
    assert "unfinished thinking" in said and "--extra" in said
    lines = lines_of(many)
    assert len(lines) < 40 and all(len(line["captions"]) == 3 for line in lines)


def test_options_are_checked(few, tmp_path, capsys):
    out = tmp_path / "c.jsonl"
    for seconds in ("-1", "0.5"):
        with FaultServer(then=model) as server:
            said = stops(capsys, flags(server, few, out, "--give-up-s", seconds))
        assert "--give-up-s must be 0 (never) or at least --attempt-s" in said


def test_the_embedded_grammar_writes_what_it_always_wrote(tmp_path, capsys):
    """The digests are those of the file before services and the grammar shared the rules about unfinished prompts."""
    out = tmp_path / "c.jsonl"
    enhance.main(["--count", "24", "--k", "6", "--seed", "3", "--out", str(out)])
    assert hashlib.sha256(out.read_bytes()).hexdigest() == "c7f363a0ab74c82be7bfbccbac85d29f74acf2ee045c113ffddeaefe90d49236"
    prompts, out = tmp_path / "p.txt", tmp_path / "short.jsonl"
    prompts.write_text("a circle\na large red circle\na large red circle top-left on a white background\n")
    enhance.main(["--prompts", str(prompts), "--out", str(out), "--k", "60"])
    assert hashlib.sha256(out.read_bytes()).hexdigest() == "1c770491db0f57f60e025d20eb73af7344554381880f9852bc3adb03df14dbd3"
    assert "1 prompts have fewer than 60" in capsys.readouterr().out
    prompts.write_text("a horse on the moon\n")
    said = stops(capsys, ["--prompts", str(prompts), "--out", str(tmp_path / "none.jsonl")])
    assert "1 of 1 prompts are not finished" in said and "--endpoint" in said
