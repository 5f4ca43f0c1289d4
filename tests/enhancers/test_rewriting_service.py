"""The enhance command against a language model's server that is slow, fails and repeats itself."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mvgrpo_jax import enhance
from tests.services.faults import FaultServer, completion, http, status

PROMPTS = [f"a {color} fox number {i} in a quiet forest" for i, color in enumerate(("red", "grey", "white", "black", "brown"))]
MORE = ["at dawn", "under tall pines", "with soft light", "near a river", "after heavy rain", "in thick fog", "beside ferns"]


async def model(writer, request):
    """Does what it is asked, from the seed alone; now and then it repeats itself."""
    text = request["messages"][1]["content"]
    prompt = re.search(r"^Prompt: (.*)$", text, re.MULTILINE)[1]
    rng = np.random.default_rng(request["seed"])
    if text.startswith("Write the prompt again with one"):
        out = f"{prompt} {' and '.join(rng.permutation(MORE)[:2])}"
    elif "without one or two" in text:
        out = prompt.replace(" in a quiet forest", "")
    else:
        out = f"in a forest that is {rng.choice(['quiet', 'still', 'calm'])}, {prompt.replace(' in a quiet forest', '')}"
    writer.write(http(completion(f'"{out}"')))


def flags(server, prompts, out, *more):
    quick = ["--attempt-s", "2", "--request-s", "5", "--retries", "2"]
    return ["--prompts", str(prompts), "--out", str(out), "--k", "4", "--endpoint", server.url, "--model", "m", *quick, *more]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def test_captions_summary_and_plot(prompts, tmp_path, capsys):
    out = tmp_path / "c.jsonl"
    with FaultServer(then=model) as server:
        enhance.main(flags(server, prompts, out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["prompt"] for line in lines} == set(PROMPTS) and all(len(line["captions"]) == 4 for line in lines)
    for line in lines:
        texts = [c["text"].lower() for c in line["captions"]]
        assert len(set(texts)) == 4 and all("fox" in t and '"' not in t for t in texts)
        assert {c["operation"] for c in line["captions"]} <= {"addition", "deletion", "rewriting"}
    facts = json.loads((tmp_path / "c.jsonl.summary.json").read_text())
    assert facts["captions"] == 20 and facts["repeats_refused"] > 0 and facts["words"]["p50"] > 5
    assert sum(facts["operations"].values()) == 20 and facts["similarity"]["p95"] < 0.9
    assert (tmp_path / "c.jsonl.png").read_bytes()[:4] == b"\x89PNG"
    assert "5 prompts, 20 captions" in capsys.readouterr().out
    # The memory is in the request, and it grows.
    asked = [body["messages"][1]["content"] for _, body in server.requests if PROMPTS[0] in str(body)]
    assert max(text.count("\n- ") for text in asked) >= 3 and min(text.count("\n- ") for text in asked) == 0
    assert server.requests[0][1]["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_killed_command_goes_on(prompts, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "c.jsonl"

    async def slowly(writer, request):
        time.sleep(0.05)
        await model(writer, request)

    with FaultServer(then=model) as server:
        enhance.main(flags(server, prompts, whole))
    with FaultServer(then=slowly) as server:
        command = [sys.executable, "-m", "mvgrpo_jax.enhance", *flags(server, prompts, out, "--in-flight", "1")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.time() + 60
        while time.time() < deadline and not (out.exists() and out.read_text().count("\n") >= 2):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = out.read_text()
        assert 2 <= kept.count("\n") < 5
        out.write_text(kept + '{"prompt": "a red fo')  # a line that was cut off
        enhance.main(flags(server, prompts, out))
    assert out.read_text().startswith(kept)
    assert sorted(out.read_text().splitlines()) == sorted(whole.read_text().splitlines())


def test_a_service_that_is_down_loses_nothing(prompts, tmp_path, capsys):
    out = tmp_path / "c.jsonl"
    with FaultServer(*[model] * 20, then=status("400 Bad Request")) as server, pytest.raises(SystemExit) as stop:
        enhance.main(flags(server, prompts, out, "--in-flight", "1"))
    said = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and "prompts are not finished: no answer was of use" in said
        and "bad request" in said
        and "go on" in said
    )
    done = out.read_text().count("\n")
    assert 1 <= done < 5
    with FaultServer(then=model) as server:
        enhance.main(flags(server, prompts, out))
    assert out.read_text().count("\n") == 5
    with FaultServer(then=status("401 Unauthorized")) as server, pytest.raises(SystemExit):
        enhance.main(flags(server, prompts, tmp_path / "other.jsonl", "--in-flight", "1"))
    assert len(server.requests) == 1  # a wrong key is not tried on every prompt
    assert "refused with status 401" in capsys.readouterr().err


def test_mistakes(prompts, tmp_path, capsys):
    for more, message in (
        (["--k", "0"], "--k and --in-flight must be at least 1"),
        (["--similarity", "1.5"], "--similarity must be above 0"),
        (["--endpoint", "localhost:1"], "expected http://HOST:PORT/v1"),
        (["--endpoint", "http://localhost:1/v1", "--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY.*is not set"),
        (["--endpoint", "http://localhost:1/v1", "--extra", "{"], "not valid JSON"),
    ):
        with pytest.raises(SystemExit) as stop:
            enhance.main(["--prompts", str(prompts), "--out", str(tmp_path / "x.jsonl"), *more])
        assert stop.value.code == 2 and re.search(message, capsys.readouterr().err)
