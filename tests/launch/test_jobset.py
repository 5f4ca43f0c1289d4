"""JobSets: what the schemas take, numbers that fit each other, and exit statuses."""

import copy
import os
import shlex
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from launch import flags, jobset
from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.errors import AGAIN, MISTAKE, UserError
from tests.launch import manifests

ROOT = Path(__file__).parents[2]
TRAIN = ("--", "--config=configs/mvgrpo_flux.py")
BUCKET, FOLDER = (*TRAIN, "--workdir=gs://b/runs/flux"), (*TRAIN, "--workdir=/runs/flux")
CASES = {
    "v5p slices": ("--chip=v5p", "--topology=4x4x4", "--slices=2", *BUCKET),
    "v5e host": ("--chip=v5e", "--topology=2x4", "--spot", *BUCKET),
    "v6e slice": ("--chip=v6e", "--topology=4x8", *BUCKET),
    "h200 nodes": ("--chip=h200", "--nodes=3", "--claim=runs", *FOLDER),
    "h100 node": ("--chip=h100", "--gpus=4", *BUCKET),
}
# By hand: (Jobs, pods of each, accelerators of a pod).
SIZES = {
    "v5p slices": (2, 16, 4),
    "v5e host": (1, 1, 8),
    "v6e slice": (1, 8, 4),
    "h200 nodes": (3, 1, 8),
    "h100 node": (1, 1, 4),
}


def written(*words):
    """The manifest as a file has it."""
    return yaml.safe_load(yaml.safe_dump(jobset.jobset(jobset.parse(["--image=registry/mvgrpo:1", *words]))))


def parts(manifest):
    """(the replicated job, its Job's spec, its pod's spec, the container)."""
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    return replicated, job, pod, pod["containers"][0]


@pytest.mark.parametrize("case", CASES)
def test_the_schemas_take_it(case):
    manifests.check(written(*CASES[case]))


def misspelt(manifest, where):
    out = copy.deepcopy(manifest)
    replicated, job, pod, container = parts(out)
    owner, old, new = {
        "jobset": (out["spec"], "failurePolicy", "failurePolicies"),
        "job": (job, "podFailurePolicy", "podFailurePolicies"),
        "pod": (pod, "terminationGracePeriodSeconds", "terminationGraceSeconds"),
        "container": (container, "env", "environment"),
    }[where]
    owner[new] = owner.pop(old)
    return out


@pytest.mark.parametrize("where", ["jobset", "job", "pod", "container"])
def test_the_schemas_refuse_a_misspelt_field(where):
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        manifests.check(misspelt(written(*CASES["h200 nodes"]), where))


@pytest.mark.skipif("MVGRPO_JOBSET_CRD" not in os.environ, reason="MVGRPO_JOBSET_CRD names no file of the published definition")
@pytest.mark.parametrize("case", CASES)
def test_the_published_definition_takes_it(case):
    jsonschema.validate(written(*CASES[case]), manifests.crd(os.environ["MVGRPO_JOBSET_CRD"]))


@pytest.mark.parametrize("case", CASES)
def test_numbers_fit_each_other(case):
    replicated, job, pod, container = parts(written(*CASES[case]))
    jobs, pods, accelerators = SIZES[case]
    assert replicated["replicas"] == jobs and job["completions"] == job["parallelism"] == pods
    limits = container["resources"]["limits"]
    assert limits.get("google.com/tpu", limits.get("nvidia.com/gpu")) == accelerators
    words = container["command"]
    assert words[:3] == ["python", "-m", "mvgrpo_jax.main"]
    overrides = [w for w in words if w.startswith("--config.")]
    assert arguments.from_arguments("configs/mvgrpo_flux.py", overrides).mesh.devices == jobs * pods * accelerators
    assert {m["name"] for m in container.get("volumeMounts", [])} == {v["name"] for v in pod.get("volumes", [])}


def test_processes_on_gpus_find_the_first_one():
    manifest = written(*CASES["h200 nodes"], "--config.seed=3")
    replicated, _, _, container = parts(manifest)
    words = dict(w.removeprefix("--").split("=", 1) for w in container["command"] if w.startswith("--"))
    host, port = words["coordinator"].split(":")
    name, network = manifest["metadata"]["name"], manifest["spec"]["network"]
    # JobSet names a pod NAME-JOB-INDEX-POD, in the network's domain.
    assert host == f"{name}-{replicated['name']}-0-0.{network['subdomain']}" and network["enableDNSHostnames"]
    assert int(port) in [p["containerPort"] for p in container["ports"]] and words["processes"] == "3"
    (index,) = [e for e in container["env"] if e["name"] == "JOB_INDEX"]
    assert words["process_id"] == "$(JOB_INDEX)"
    assert index["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.annotations['jobset.sigs.k8s.io/job-index']"


def test_statuses_decide_what_starts_again():
    manifest = written(*CASES["v5p slices"])
    _, job, _, container = parts(manifest)
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [1, MISTAKE] and AGAIN not in rule["onExitCodes"]["values"]
    (policy,) = manifest["spec"]["failurePolicy"]["rules"]
    assert policy["action"] == "FailJobSet" and policy["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["backoffLimit"] == 0 and manifest["spec"]["failurePolicy"]["maxRestarts"] == 100


@pytest.mark.parametrize(
    "case, domain", [("v5p slices", "cloud.google.com/gke-nodepool"), ("h200 nodes", "kubernetes.io/hostname")]
)
def test_a_job_has_its_domain_alone(case, domain):
    manifest = written(*CASES[case])
    assert manifest["metadata"]["annotations"] == {"alpha.jobset.sigs.k8s.io/exclusive-topology": domain}
    other = written("--exclusive=rack", *CASES[case])
    assert list(other["metadata"]["annotations"].values()) == ["rack"]


def test_flags_are_the_environment():
    _, _, pod, container = parts(written("--set=xla_tpu_scoped_vmem_limit_kib=65536", *CASES["v5p slices"]))
    values = {e["name"]: e["value"] for e in container["env"]}
    assert values == flags.variables("v5p", 2, {"xla_tpu_scoped_vmem_limit_kib": "65536"}, {})
    assert "65536" in values["LIBTPU_INIT_ARGS"] and pod["terminationGracePeriodSeconds"] == 600


def test_the_shipped_manifest_is_what_is_written():
    shipped = (ROOT / "launch" / "jobset.yaml").read_text()
    command = next(line.removeprefix("#   ") for line in shipped.splitlines() if "launch.jobset" in line)
    words = shlex.split(command)[3:]
    assert yaml.safe_load(shipped) == yaml.safe_load(yaml.safe_dump(jobset.jobset(jobset.parse(words)))), command


@pytest.mark.parametrize("name", ["kubernetes.yaml", "sidecars/kubernetes.yaml", "sidecars/rewards.yaml", "jobset.yaml"])
def test_shipped_manifests_are_taken(name):
    documents = list(yaml.safe_load_all((ROOT / "launch" / name).read_text()))
    assert documents
    for document in documents:
        manifests.check(document)


@pytest.mark.parametrize(
    "words, message",
    [
        (("--chip=v5p", "--topology=4x4", *BUCKET), "v5p has 3 sizes"),
        (("--chip=v5e", *BUCKET), "v5e has 2 sizes"),
        (("--chip=v6e", "--topology=3x3", *BUCKET), "9 chips are no machines"),
        (("--chip=h20", *BUCKET), "expected one of"),
        (("--chip=h200", *FOLDER), "give --claim NAME"),
        (("--chip=h200", *TRAIN), "no workdir"),
        (("--chip=h200", "--nodes=0", *BUCKET), "at least 1"),
        (("--chip=h200", "--name=My_Run", *BUCKET), "small letters"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError, match=message):
        written(*words)
