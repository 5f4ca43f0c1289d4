"""What is written for other machines: it parses, names what exists, and its arithmetic is right."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from configs import mvgrpo_flux_vlm
from launch.sidecars import ready, sizing
from launch.sidecars import serve as start
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import kinds, serve, texts

SIDECARS = Path(__file__).parents[2] / "launch" / "sidecars"


def flags(words):
    return dict(word.removeprefix("--").partition("=")[::2] for word in words)


def test_servers_fit_the_configs():
    services = yaml.safe_load((SIDECARS / "compose.yaml").read_text())["services"]
    config = mvgrpo_flux_vlm.get_config()
    captioner = flags(services["captioner"]["command"])
    assert captioner["served-model-name"] == config.views.service.model
    assert json.loads(captioner["limit-mm-per-prompt"])["image"] == 1
    assert int(captioner["max-num-seqs"]) >= config.views.service.concurrency
    longest = sizing.picture_tokens(config.views.image.size) + 100 + config.views.service.max_tokens
    assert longest <= int(captioner["max-model-len"])
    assert {"captioner", "rewriter", "reward", "judges"} == set(services)
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])  # nothing listens to the world
        assert name == "judges" or service["environment"]["VLLM_API_KEY"] == "${VLLM_API_KEY:-}"


def test_the_reward_server_fits_its_judge():
    reward = flags(yaml.safe_load((SIDECARS / "compose.yaml").read_text())["services"]["reward"]["command"])
    judge, question = kinds.defaults("unifiedreward"), texts.read("", "unifiedreward_v2")
    assert reward["served-model-name"] == judge["model"] and "enable-prefix-caching" in reward
    assert json.loads(reward["limit-mm-per-prompt"])["image"] == 1
    assert int(reward["max-num-seqs"]) >= judge["concurrency"]
    longest = sizing.picture_tokens(1024) + len(question.split()) * 2 + 512 + judge["max_tokens"]
    assert longest <= int(reward["max-model-len"])


def test_the_server_of_judges_starts_with_these_flags(tmp_path):
    whole = yaml.safe_load((SIDECARS / "compose.yaml").read_text())
    service = whole["services"]["judges"]
    python, m, module, *words = service["command"]
    options = serve.parse(words)
    assert (python, m, module) == ("python", "-m", serve.__name__)
    assert (
        service["ports"] == [f"127.0.0.1:{options.port}:{options.port}"]
        and f":{options.port}/health" in service["healthcheck"]["test"][-1]
    )
    (secret,) = service["secrets"]
    assert str(options.token_file) == f"/run/secrets/{secret}" and secret in whole["secrets"]
    assert [word.partition("=")[0] for word in options.judge] == ["clip"]


def test_the_deployment_is_whole():
    deployment, service, policy = yaml.safe_load_all((SIDECARS / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    assert policy["spec"]["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    compose = yaml.safe_load((SIDECARS / "compose.yaml").read_text())["services"]["captioner"]
    shared = flags(container["args"]).items() - flags(compose["command"]).items()
    assert not shared and container["image"] == compose["image"]
    key = next(e for e in container["env"] if e["name"] == "VLLM_API_KEY")
    assert "secretKeyRef" in key["valueFrom"] and "value" not in key
    mounts = {m["name"] for m in container["volumeMounts"]}
    assert mounts == {v["name"] for v in pod["spec"]["volumes"]}


def test_the_reward_deployments_are_whole():
    documents = list(yaml.safe_load_all((SIDECARS / "rewards.yaml").read_text()))
    deployments = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "Deployment"}
    services = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "Service"}
    (policy,) = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    compose = yaml.safe_load((SIDECARS / "compose.yaml").read_text())["services"]
    assert deployments.keys() == services.keys() == {"reward", "judges"}
    assert policy["podSelector"]["matchExpressions"][0]["values"] == list(deployments)
    for name, spec in deployments.items():
        pod = spec["template"]
        (container,) = pod["spec"]["containers"]
        assert spec["selector"]["matchLabels"] == pod["metadata"]["labels"] == services[name]["selector"]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}
        (port,) = container["ports"]
        assert {"port": port["containerPort"]} in policy["ingress"][0]["ports"]
        assert any("secretKeyRef" in e.get("valueFrom", {}) for e in container["env"])
    vllm, judges = (deployments[name]["template"]["spec"]["containers"][0] for name in ("reward", "judges"))
    assert flags(vllm["args"]) == flags(compose["reward"]["command"]) and vllm["image"] == compose["reward"]["image"]
    words = judges["args"][0].split("mvgrpo_jax.rewards.serve ")[1].split()
    options = serve.parse(words)
    assert options.port == judges["ports"][0]["containerPort"] and str(options.token_file) == "/tmp/key"


@pytest.mark.parametrize("name, module", [("captioner", "vllm.entrypoints.openai.api_server"), ("judges", serve.__name__)])
def test_a_sidecar_without_a_container(name, module):
    words = start.command(name, 8105, "TOKEN", ["--max-model-len=7", "--judge=clip=/data/clip"])
    python, m, what, *rest = words
    assert (python, m, what) == (sys.executable, "-m", module)
    given = flags(rest)
    assert given["port"] == "8105" and given["host"] == "0.0.0.0" and given["max-model-len"] == "7"
    assert len(rest) == len({word.partition("=")[0] for word in rest})  # each flag once
    if name == "judges":
        options = serve.parse([word for word in rest if "max-model-len" not in word])
        assert options.judge == ["clip=/data/clip"] and str(options.token_file) == "TOKEN"
    else:
        assert {word for word in start.services()[name] if "max-model-len" not in word} < set(rest)


def test_a_sidecar_that_there_is_not():
    with pytest.raises(UserError, match="no sidecar 'caption' in compose.yaml; there are: captioner"):
        start.command("caption", 1, "", [])


# A server that ends at SIGTERM, as uvicorn does.
SERVER = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
OWNER = "import sys\nfrom launch.sidecars import serve\nsys.exit(serve.serve([sys.executable, '-c', *sys.argv[1:]]))"


def test_a_server_outlives_sigterm_and_not_its_owner():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    owner = subprocess.Popen([sys.executable, "-c", OWNER, SERVER, str(port)], cwd=SIDECARS.parents[1], start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        assert ready.wait([url], [owner.pid], 30) == ""
        os.killpg(owner.pid, signal.SIGTERM)  # as SLURM does, all of a step
        time.sleep(0.5)
        assert owner.poll() is None and ready.healthy(url)
    finally:
        owner.kill()
        owner.wait()
    deadline = time.monotonic() + 10
    while ready.healthy(url):
        assert time.monotonic() < deadline, "the server goes on without its owner"
        time.sleep(0.05)


def test_waiting_for_servers_that_do_not_come():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert f"process {gone.pid} ended" in ready.wait(["http://127.0.0.1:9"], [gone.pid], 30)
    assert "did not answer within 0 s" in ready.wait(["http://127.0.0.1:9"], [os.getpid()], 0.0)


def test_sizing_by_hand(capsys):
    assert sizing.captions(8, 4, 12) == 384
    assert sizing.picture_tokens(512) == 256 and sizing.picture_tokens(500) == 256
    model = sizing.Model(parameters=1e9, layers=10, kv_heads=1, head=50)
    assert model.cache_bytes == 2 * 10 * 50 * 2
    # Prefill: 2e9 x 100 / (0.5 x 989e12). Decoding: 10 steps that read 2e9 bytes of weights and 4 x 2000 x 105 of cache.
    speed, prefill, decode = sizing.rate("h200", model, 100, 10, 4, 0.5)
    assert prefill == pytest.approx(2e11 / 494.5e12)
    assert decode == pytest.approx(10 * (2e9 + 4 * 2000 * 105) / 4.8e12 / 4)
    assert speed == pytest.approx(1 / (prefill + decode))
    assert sizing.main(["--trainers", "64", "--window", "20", "--rate", "30"]) == 6  # 64 x 4 x 12 / 30 / 20 = 5.12
    said = capsys.readouterr().out
    assert "64 prompts x 4 branches x 12 views = 3072" in said and re.search(r"wait that stays +about 4.3 s", said)
