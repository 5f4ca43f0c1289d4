"""launch/slurm.sh and its job with stand-ins for SLURM's programs: what is asked for, what runs where, what is queued again.
tests/launch/test_real_slurm.py has a real one."""

import shlex
import sys

import pytest

from mvgrpo_jax.configuration import arguments
from tests.launch.stand_ins import StandIns

RUN = ("--config=configs/mvgrpo_flux_vlm.py", "--config.pipeline=/my models/flux")
# python: prints the flags of a chip, waits for servers, trains or serves: nothing.
PYTHON = 'case "$*" in *launch.flags*) exec "$REAL" "$@" ;; *launch.sidecars.ready*) exit ${READY:-0} ;; esac'
SRUN = 'case "$*" in *mvgrpo_jax.main*) echo "flags $XLA_FLAGS key ${#VLLM_API_KEY}"; exit ${CODE:-0} ;; esac'
SCONTROL = """
case "$*" in
    "show hostnames"*) printf "%s\\n" ${3//,/ } ;;
    "show job"*) echo "JobId=7 JobName=a JobState=${STATE:-RUNNING} Reason=None" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path):
    return StandIns(tmp_path, sbatch="echo submitted", python=PYTHON, srun=SRUN, scontrol=SCONTROL)


def submit(slurm, tmp_path, *options, **more):
    code, said = slurm.run("launch/slurm.sh", *options, "--", *RUN, f"--workdir={tmp_path}/run", **more)
    return code, slurm.calls(), said


def parts(call):
    """The words of sbatch for each part of a job, and the job's own."""
    at = next(i for i, word in enumerate(call) if word.endswith("slurm_job.sh"))
    words, out = call[1:at], [[]]
    for word in words:
        if word == ":":
            out.append([])
        else:
            out[-1].append(word)
    return out, call[at + 1 :]


def test_a_process_for_each_gpu(slurm, tmp_path):
    code, (call,), _ = submit(slurm, tmp_path, "--nodes=2", "--hours=7", "--grace=300", "--sbatch=--partition=gpu")
    (words,), job = parts(call)
    assert code == 0 and (tmp_path / "run").is_dir()
    wanted = {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=12", "--time=7:00:00", "--requeue"}
    assert wanted | {"--signal=TERM@300", "--partition=gpu", "--job-name=run", "--open-mode=append"} <= set(words)
    assert f"--output={tmp_path}/run/slurm-%j.out" in words
    train = job[job.index("--") + 1 :]
    assert train == [*RUN, f"--workdir={tmp_path}/run", "--config.mesh.devices=16"] and "--chip=h200" in job


def test_a_process_for_each_node_takes_all_of_its_gpus(slurm, tmp_path):
    _, (call,), _ = submit(slurm, tmp_path, "--tasks=1", "--gpus=4")
    (words,), job = parts(call)
    assert {"--ntasks-per-node=1", "--gpus-per-node=4"} <= set(words) and "--config.mesh.devices=4" in job


def test_sidecars_are_parts_of_the_job(slurm, tmp_path):
    sidecars = ("--sidecar=captioner:1x8", "--sidecar=judges:2x4:judges.clip", "--sidecar_word=judges:--judge=clip=/data/clip")
    _, (call,), _ = submit(slurm, tmp_path, *sidecars)
    (_, captioner, judges), job = parts(call)
    assert {"--nodes=1", "--ntasks-per-node=8", "--gpus-per-node=8"} <= set(captioner)
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"} <= set(judges)
    assert "--config.views.enhancer=vlm" in job and "--config.mesh.devices=8" in job


def run_job(slurm, *options, **more):
    """(status, calls, what was printed) of the job alone, as SLURM starts it."""
    words = ("launch/slurm_job.sh", "--python=python", *options, "--", *RUN, "--workdir=/runs/a", "--config.mesh.devices=8")
    code, said = slurm.run(*words, SLURM_JOB_ID="7", REAL=sys.executable, XLA_FLAGS="", VLLM_API_KEY="", **more)
    return code, slurm.calls(), said


@pytest.mark.parametrize(
    "status, restarts, again", [(0, 0, False), (1, 0, False), (2, 0, False), (75, 0, True), (137, 19, True), (75, 20, False)]
)
def test_what_may_pass_is_queued_again(slurm, status, restarts, again):
    code, calls, _ = run_job(slurm, CODE=str(status), SLURM_RESTART_COUNT=str(restarts))
    assert code == status and (["scontrol", "requeue", "7"] in calls) == again


@pytest.mark.parametrize("state", ["CANCELLED", "PENDING", "COMPLETING"])
def test_a_job_that_is_not_running_any_more_is_left_alone(slurm, state):
    code, calls, _ = run_job(slurm, CODE="75", STATE=state)
    assert code == 75 and ["scontrol", "requeue", "7"] not in calls


def test_the_job_trains_with_the_flags_of_its_chip(slurm):
    code, calls, said = run_job(slurm, "--chip=h200", "--set=xla_gpu_all_reduce_combine_threshold_bytes=5")
    (train,) = [c for c in calls if c[0] == "srun"]
    assert code == 0 and train[1] == "--kill-on-bad-exit=1" and train[-1] == "--distributed" and "mvgrpo_jax.main" in train
    assert "--xla_gpu_all_reduce_combine_threshold_bytes=5" in said and "key 0" in said


def test_an_unknown_flag_of_the_table_ends_the_job_before_it_trains(slurm):
    code, calls, said = run_job(slurm, "--chip=h20")
    assert code == 2 and "expected one of" in said and not [c for c in calls if c[0] == "srun"]


def test_the_trainer_is_told_where_the_servers_are(slurm):
    sidecars = ("--sidecar=captioner:2x2:views.service", "--sidecar=judges:1x0:judges.clip", "--sidecar_word=judges:--open")
    nodes = {"SLURM_JOB_NODELIST_HET_GROUP_1": "n5,n6", "SLURM_JOB_NODELIST_HET_GROUP_2": "n9"}
    code, calls, said = run_job(slurm, *sidecars, **nodes)
    assert code == 0
    captioner, judges, train = sorted((c for c in calls if c[0] == "srun"), key=lambda c: "--het-group=0" in c)
    if "captioner" not in captioner:
        captioner, judges = judges, captioner
    assert captioner[1:4] == ["--het-group=1", "--kill-on-bad-exit=1", "--gpus-per-task=1"] and "--port=8100" in captioner
    assert judges[1:3] == ["--het-group=2", "--kill-on-bad-exit=1"] and judges[-1] == "--word=--open"
    overrides = [w for w in train if w.startswith("--config.views.service.")]
    config = arguments.from_arguments("configs/mvgrpo_flux_vlm.py", overrides)
    addresses = [f"http://{node}:{port}/v1" for node in ("n5", "n6") for port in (8100, 8101)]
    assert list(config.views.service.endpoints) == addresses and config.views.service.key_env == "VLLM_API_KEY"
    assert "--config.judges.clip.endpoints=('http://n9:8200',)" in train
    (ready,) = [c for c in calls if "launch.sidecars.ready" in c]
    assert [w for w in ready if w.startswith("http")] == [a.removesuffix("/v1") for a in addresses] + ["http://n9:8200"]
    assert "key 64" in said  # of this job alone


def test_without_its_servers_a_job_does_not_train(slurm):
    code, calls, _ = run_job(slurm, "--sidecar=captioner:1x1:views.service", READY="1", SLURM_JOB_NODELIST_HET_GROUP_1="n5")
    assert code == 1 and not [c for c in calls if "mvgrpo_jax.main" in c]


def test_dry_run_prints_every_command_and_submits_nothing(slurm, tmp_path):
    code, calls, said = submit(slurm, tmp_path, "--dry_run", "--sidecar=captioner:1x2", REAL=sys.executable)
    assert code == 0 and not [c for c in calls if c[0] in ("sbatch", "srun", "scontrol")] and not (tmp_path / "run").exists()
    lines = [shlex.split(line) for line in said.splitlines()]
    starts = [next(w for w in line if not w.startswith("--") and w != "env") for line in lines]
    assert starts[:2] == ["mkdir", "sbatch"] and starts[-3:] == ["srun", "python", "srun"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--tasks=3",), "divides --gpus 8"),
        (("--sidecar=captioner:8",), "expected captioner, reward or judges:NODESxGPUS"),
        (("--sidecar=judges:1x1",), "name the judge of the config"),
        (("--setup=/no/such",), "no such file"),
        (("--hours=soon",), "whole number"),
        (("--gpu=8",), "unknown option --gpu"),
    ],
)
def test_mistakes(slurm, tmp_path, options, message):
    code, calls, said = submit(slurm, tmp_path, *options)
    assert code == 2 and message in said and not calls
