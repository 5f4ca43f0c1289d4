"""Writes a Kubernetes JobSet that trains on TPU slices or on nodes of GPUs:

    python -m launch.jobset --chip v5p --topology 4x4x4 --slices 2 --image IMAGE -- --config=configs/mvgrpo_flux.py \\
        --workdir=gs://bucket/runs/flux [--config.key=value ...] > jobset.yaml
    python -m launch.jobset --chip h200 --nodes 2 --image IMAGE --claim runs -- --config=FILE --workdir=/runs/flux

launch/jobset.sh applies it and follows the run. What it says:

* TPUs: a Job for each slice, a pod for each of its machines; GPUs: a Job of one pod for each node. Each Job has its domain of
  the topology alone (a node pool, a host), and all are started anew together when one of them fails.
* A pod that ends with 1 or 2, an error or a mistake, fails the JobSet: it would end so again. All else (75 stopped and saved, a
  pod that was evicted, a node that died) starts it again, at most --restarts times; the run goes on from its newest
  checkpoint.
* SIGTERM comes --grace seconds before a pod is killed. Spot machines give less (GKE: 25 s); checkpoints bound what that loses.
* Flags of the chip (launch/flags.py) are its environment.

Pods are labelled role: trainer, whom the servers of launch/sidecars answer.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from typing import Any

import yaml

from launch import flags
from mvgrpo_jax.errors import MISTAKE, UserError, reports_errors

ERROR = 1
# GKE's name of a slice's machines; chips of a machine by the topology: slices of one machine may have more than four.
ACCELERATORS = {"v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice"}
ONE_MACHINE = {"v5e": (1, 4, 8), "v5p": (4,), "v6e": (1, 4, 8)}
CHIPS_OF_A_MACHINE = 4
COORDINATOR_PORT = 8476
EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
JOB_INDEX = "metadata.annotations['jobset.sigs.k8s.io/job-index']"


def machines(chip: str, topology: str) -> tuple[int, int]:
    """(machines of a slice, chips of each) of a topology such as 4x4x4. UserError where it is none of the chip."""
    sizes = 3 if chip == "v5p" else 2
    if not re.fullmatch("x".join([r"[1-9]\d*"] * sizes), topology):
        raise UserError(f"--topology {topology}: {chip} has {sizes} sizes, as {'x'.join(['4'] * sizes)}")
    chips = math.prod(map(int, topology.split("x")))
    if chips in ONE_MACHINE[chip]:
        return 1, chips
    if chips % CHIPS_OF_A_MACHINE:
        raise UserError(f"--topology {topology}: {chips} chips are no machines of {CHIPS_OF_A_MACHINE}")
    return chips // CHIPS_OF_A_MACHINE, CHIPS_OF_A_MACHINE


def jobset(options: argparse.Namespace) -> dict[str, Any]:
    """The manifest. UserError where options do not fit each other."""
    if options.chip in flags.TPUS:
        pods, chips = machines(options.chip, options.topology or "")
        job, replicas, devices = "slice", options.slices, options.slices * pods * chips
        domain = "cloud.google.com/gke-nodepool"
    else:
        flags.chosen(options.chip)
        pods, job, replicas, devices = 1, "node", options.nodes, options.nodes * options.gpus
        domain = "kubernetes.io/hostname"
    if "://" not in workdir(options.train) and not options.claim:
        raise UserError("a workdir that is a folder lies on a volume that all pods share: give --claim NAME, or a bucket")
    rules = [{"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    template = {
        "backoffLimit": 0,  # the processes of a job live and die together
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [ERROR, MISTAKE]},
                }
            ]
        },
        "template": {"metadata": {"labels": {"role": "trainer"}}, "spec": pod(options, replicas, devices)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": options.name, "annotations": {EXCLUSIVE: options.exclusive or domain}},
        "spec": {
            "failurePolicy": {"maxRestarts": options.restarts, "rules": rules},
            "network": {"enableDNSHostnames": True, "subdomain": options.name},
            "replicatedJobs": [{"name": job, "replicas": replicas, "template": {"spec": template}}],
            "ttlSecondsAfterFinished": options.keep,
        },
    }


def pod(options: argparse.Namespace, replicas: int, devices: int) -> dict[str, Any]:
    """What each pod runs, and on what."""
    tpu = options.chip in flags.TPUS
    command = ["python", "-m", "mvgrpo_jax.main", *options.train, f"--config.mesh.devices={devices}"]
    values = flags.variables(options.chip, options.slices, flags.read(options.set), {})
    environment: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in values.items() if value]
    container: dict[str, Any] = {"name": "trainer", "image": options.image}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        "containers": [container],
    }
    volumes, mounts = [], []
    if tpu:
        _, chips = machines(options.chip, options.topology)
        command.append("--distributed")
        container["ports"] = [{"containerPort": 8471}, {"containerPort": 8080}]
        container["resources"] = {"limits": {"google.com/tpu": chips}}
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
        spec["nodeSelector"] = {
            "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[options.chip],
            "cloud.google.com/gke-tpu-topology": options.topology,
        }
        if options.spot:
            spec["nodeSelector"]["cloud.google.com/gke-spot"] = "true"
    else:
        first = f"{options.name}-node-0-0.{options.name}:{COORDINATOR_PORT}"
        command += [f"--coordinator={first}", f"--processes={replicas}", "--process_id=$(JOB_INDEX)"]
        environment.append({"name": "JOB_INDEX", "valueFrom": {"fieldRef": {"fieldPath": JOB_INDEX}}})
        container["ports"] = [{"containerPort": COORDINATOR_PORT}]
        limits = {"nvidia.com/gpu": options.gpus, "memory": f"{64 * options.gpus}Gi", "cpu": str(8 * options.gpus)}
        container["resources"] = {"limits": limits}
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}})  # NCCL
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if options.claim:
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": options.claim}})
        mounts.append({"name": "runs", "mountPath": options.mount})
    if volumes:
        container["volumeMounts"], spec["volumes"] = mounts, volumes
    container["command"], container["env"] = command, environment
    return spec


def workdir(train: list[str]) -> str:
    """What follows --workdir. UserError without one."""
    for word, after in zip(train, [*train[1:], ""]):
        if word.startswith("--workdir="):
            return word.partition("=")[2]
        if word == "--workdir":
            return after
    raise UserError("no workdir among the words after --: give --workdir=DIR")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m launch.jobset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chip", required=True, help=", ".join(flags.CHIPS))
    parser.add_argument("--topology", help="TPU: of a slice, such as 4x4x4 or 4x8")
    parser.add_argument("--slices", type=int, default=1, help="TPU: slices (default: 1)")
    parser.add_argument("--spot", action="store_true", help="TPU: on spot machines")
    parser.add_argument("--nodes", type=int, default=1, help="GPU: nodes (default: 1)")
    parser.add_argument("--gpus", type=int, default=8, help="GPU: of a node (default: 8)")
    parser.add_argument("--image", required=True, help="this repository with pip install '.[tpu,gcs]' or '.[cuda]'")
    parser.add_argument("--name", default="trainer", help="of the JobSet (default: trainer)")
    parser.add_argument("--claim", default="", help="a PersistentVolumeClaim that all pods share, where the workdir lies")
    parser.add_argument("--mount", default="/runs", help="where it is seen (default: /runs)")
    parser.add_argument("--exclusive", default="", help="label of the domain that a Job has alone")
    parser.add_argument("--restarts", type=int, default=100, help="of the JobSet at most (default: 100)")
    parser.add_argument("--grace", type=int, default=600, help="seconds from SIGTERM to the end of a pod (default: 600)")
    parser.add_argument("--keep", type=int, default=86400, help="seconds until a finished JobSet is deleted (default: a day)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a flag instead of launch/flags.py's")
    parser.add_argument("train", nargs="*", help="after --: what follows python -m mvgrpo_jax.main")
    options = parser.parse_args(argv)
    if min(options.slices, options.nodes, options.gpus) < 1 or min(options.restarts, options.grace, options.keep) < 0:
        raise UserError("--slices, --nodes and --gpus are at least 1; --restarts, --grace and --keep at least 0")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", options.name):
        raise UserError(
            f"--name {options.name}: expected small letters, digits and hyphens, at most 42: pods are named after it"
        )
    return options


@reports_errors
def main(argv: list[str] | None = None) -> None:
    sys.stdout.write(yaml.safe_dump(jobset(parse(argv)), sort_keys=False, width=1000))


if __name__ == "__main__":
    main()
