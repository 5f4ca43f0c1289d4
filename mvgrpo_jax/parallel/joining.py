"""How the processes of a run find each other: by what the platform says, or by an address."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import jax

from mvgrpo_jax.errors import UserError


def join(coordinator: str = "", processes: int = 0, process_id: int = -1) -> None:
    """Joins the other processes of the run; to be called before anything asks for devices.

    coordinator: HOST:PORT of process 0, on which it listens; processes: how many there are; process_id: this one's number from
    0. All three, or none of them: then jax knows them from the platform: a TPU's metadata, SLURM, Open MPI, Kubernetes. Raises
    UserError where only some are given, or where the platform says nothing.
    """
    given = {"--coordinator": coordinator != "", "--processes": processes > 0, "--process_id": process_id >= 0}
    if any(given.values()):
        if missing := [name for name, known in given.items() if not known]:
            raise UserError(
                f"{', '.join(missing)} is missing: give --coordinator=HOST:PORT, --processes=N and --process_id=I together, or "
                "--distributed alone where the platform knows them"
            )
        if process_id >= processes or not coordinator.rpartition(":")[2].isdigit() or ":" not in coordinator:
            raise UserError(
                f"expected --coordinator=HOST:PORT, --process_id from 0 to {processes - 1}; got {coordinator}, {process_id}"
            )
        # Without detection each process takes all devices that it sees; CUDA_VISIBLE_DEVICES restricts them.
        jax.distributed.initialize(coordinator, processes, process_id, cluster_detection_method="deactivate")
        return
    try:
        jax.distributed.initialize(local_device_ids=gpus_of_a_task(os.environ))
    except ValueError as error:
        if "should be defined" not in str(error) and "must be defined" not in str(error):
            raise
        raise UserError(
            "--distributed: this is no TPU, SLURM, Open MPI or Kubernetes job (Kubernetes needs pip install 'jax[k8s]'); give "
            "--coordinator=HOST:PORT --processes=N --process_id=I to each process"
        ) from error


def gpus_of_a_task(environment: Mapping[str, str], root: str = "/") -> list[int] | None:
    """The GPUs that a task of a SLURM step takes, as numbers among those that it sees; None elsewhere, and without GPUs.

    Left alone, jax takes one GPU a task. Here the tasks of a node share its GPUs evenly, so that one task a node takes them
    all; a task that SLURM has bound to its own GPUs takes those. root: of the file system.
    """
    if not {"SLURM_JOB_ID", "SLURM_LOCALID", "SLURM_STEP_NODELIST"} <= set(environment):
        return None
    visible = [n for n in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if n]
    on_node = int(environment.get("SLURM_GPUS_ON_NODE", 0)) or len(visible)
    on_node = on_node or len(list((Path(root) / "dev").glob("nvidia[0-9]*")))
    tasks = tasks_of_node(environment)
    mine = len(visible) or on_node
    bound = mine < on_node or "SLURM_GPUS_PER_TASK" in environment
    if not bound and tasks > 1:
        if mine % tasks:
            raise UserError(
                f"{tasks} tasks on a node of {mine} GPUs: expected a number of tasks that divides the GPUs, such as 1"
            )
        first, share = int(environment["SLURM_LOCALID"]) * (mine // tasks), mine // tasks
        return list(range(first, first + share)) or None
    return list(range(mine)) or None


def tasks_of_node(environment: Mapping[str, str]) -> int:
    """Tasks on this node of a SLURM step: the own entry of a list such as '2(x3),1'."""
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1")).split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    node = int(environment.get("SLURM_NODEID", 0))
    return counts[node] if node < len(counts) else counts[-1]
