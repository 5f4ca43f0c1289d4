"""The trainers' manifest: its numbers fit each other, and the command is one that is understood."""

from pathlib import Path

import yaml

from mvgrpo_jax.configuration import arguments

MANIFEST = Path(__file__).parents[2] / "launch" / "kubernetes.yaml"


def test_every_pod_finds_the_first_one_and_is_counted():
    service, job = yaml.safe_load_all(MANIFEST.read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = container["args"][0].split()
    words = dict(word.removeprefix("--").split("=", 1) for word in command if word.startswith("--"))
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]} and service["spec"]["clusterIP"] == "None"
    host, port = words["coordinator"].split(":")
    assert (
        host == f"{job['metadata']['name']}-0.{service['metadata']['name']}" and pod["subdomain"] == service["metadata"]["name"]
    )
    assert int(port) in [p["containerPort"] for p in container["ports"]]
    assert spec["completionMode"] == "Indexed" and words["process_id"] == "$JOB_COMPLETION_INDEX"
    assert spec["completions"] == spec["parallelism"] == int(words["processes"])
    assert spec["completions"] * container["resources"]["limits"]["nvidia.com/gpu"] == 16
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    overrides = [word for word in command if word.startswith("--config.")]
    assert arguments.from_arguments(words["config"], overrides).mesh.devices == 16
