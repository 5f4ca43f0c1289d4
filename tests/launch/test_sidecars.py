"""What is written for other machines: it parses, names what exists, and its arithmetic is right."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from configs import mvgrpo_flux_vlm
from mvgrpo_jax.rewards import kinds, serve, texts

SIDECARS = Path(__file__).parents[2] / "launch" / "sidecars"
spec = importlib.util.spec_from_file_location("sizing", SIDECARS / "sizing.py")
sizing = sys.modules["sizing"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sizing)


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
