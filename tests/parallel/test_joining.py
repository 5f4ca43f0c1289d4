"""How processes join: what is asked of jax on which platform, and what is refused."""

import jax
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import joining
from tests.processes import succeed, together

STEP = {
    "SLURM_JOB_ID": "123",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
ONE_A_NODE = STEP | {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NODEID": "1"}
SHARED = STEP | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_LOCALID": "3", "SLURM_GPUS_ON_NODE": "8"}


@pytest.mark.parametrize(
    "environment, want",
    [
        ({}, None),
        (ONE_A_NODE, None),  # no GPUs
        (ONE_A_NODE | {"SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, list(range(8))),
        (ONE_A_NODE | {"CUDA_VISIBLE_DEVICES": "4,5"}, [0, 1]),
        (SHARED, [6, 7]),
        (SHARED | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [6, 7]),
        (SHARED | {"CUDA_VISIBLE_DEVICES": "0,1"}, [0, 1]),  # bound to its own two of eight
        (SHARED | {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1", "SLURM_GPUS_PER_TASK": "1"}, [0]),
    ],
)
def test_the_gpus_of_a_slurm_task(environment, want, tmp_path):
    assert joining.gpus_of_a_task(environment, str(tmp_path)) == want


def test_gpus_that_slurm_does_not_count(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    assert joining.gpus_of_a_task(ONE_A_NODE, str(tmp_path)) == [0, 1]


def test_tasks_that_do_not_divide_the_gpus(tmp_path):
    with pytest.raises(UserError, match="4 tasks on a node of 6 GPUs"):
        joining.gpus_of_a_task(SHARED | {"SLURM_GPUS_ON_NODE": "6"}, str(tmp_path))
    assert joining.tasks_of_node({"SLURM_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}) == 1


def test_two_nodes_of_eight_gpus_give_sixteen_devices(monkeypatch):
    """What jax itself would take on node 2 is one GPU; the run takes the node's eight."""
    from jax._src.clusters import ClusterEnv

    for name, value in (ONE_A_NODE | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}).items():
        monkeypatch.setenv(name, value)
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 300)
    assert found[1:] == (2, 1, [0])
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words, **named: asked.append((words, named)))
    joining.join()
    assert asked == [((), {"local_device_ids": list(range(8))})]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"coordinator": "host:1"}, "--processes, --process_id is missing"),
        ({"processes": 2, "process_id": 0}, "--coordinator is missing"),
        ({"coordinator": "host", "processes": 2, "process_id": 0}, "expected --coordinator=HOST:PORT"),
        ({"coordinator": "host:1", "processes": 2, "process_id": 2}, "--process_id from 0 to 1; got host:1, 2"),
        ({}, "this is no TPU, SLURM, Open MPI or Kubernetes job"),
    ],
)
def test_what_is_refused(given, message, monkeypatch):
    for name in [*STEP, "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(UserError, match=message):
        joining.join(**given)


BY_ADDRESS = """
import sys
from mvgrpo_jax.parallel import joining
joining.join(sys.argv[1], 2, int(sys.argv[3]))
from mvgrpo_jax.parallel import mesh
print(mesh.seen())
"""
BY_SLURM = """
import os, sys
os.environ |= dict(SLURM_JOB_ID="7", SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2", SLURM_PROCID=sys.argv[3])
os.environ |= dict(SLURM_LOCALID=sys.argv[3], JAX_COORDINATOR_PORT=sys.argv[1].split(":")[1])
""" + BY_ADDRESS.replace("sys.argv[1], 2, int(sys.argv[3])", "")


@pytest.mark.parametrize("script", [BY_ADDRESS, BY_SLURM], ids=["address", "slurm"])
def test_two_processes_join(script):
    for out in succeed(together(script, devices=3, join="")):
        assert out.splitlines()[-1] == "2 processes x 3 devices"
