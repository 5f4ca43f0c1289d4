"""launch/tpu_pod.sh with a gcloud that writes down what it is asked: every path gives the slice back, or keeps it by intent."""

import shlex
import subprocess

import pytest

from tests.launch.stand_ins import ROOT, StandIns

# States come from a file, one a question, the last one for ever; a file of statuses has what each start of the run ends with.
GCLOUD = """
case "$*" in
    *" create "*) exit ${ON_CREATE:-0} ;;
    *" delete "*) exit ${ON_DELETE:-0} ;;
    *" describe "*) head -1 "$STATES"; [ "$(wc -l < "$STATES")" -lt 2 ] || sed -i 1d "$STATES" ;;
    *" scp "*) exit ${ON_SCP:-0} ;;
    *"kill -TERM"*) touch "$STATES.asked" ;;
    *tpu_worker*)
        CODE=$(head -1 "$STATUSES"); sed -i 1d "$STATUSES"
        if [ "$CODE" = wait ]; then
            until [ -e "$STATES.asked" ]; do /bin/sleep 0.05; done
            CODE=75
        fi
        [ "$CODE" = lost ] && exit 255
        echo "flux-w0: mvgrpo status 0"; echo "mvgrpo status $CODE"; exit $((CODE > 0)) ;;
esac
"""
SLEEP = '[ "$1" = 60 ] || exec /bin/sleep "$1"'
RUN = ("--", "--config=configs/mvgrpo_flux.py", "--workdir=gs://b/runs/flux", "--config.pipeline=/my models/flux")


@pytest.fixture
def pod(tmp_path):
    """pod(states, statuses, *options, **more) -> (status, actions, what was printed); actions are gcloud's, in words."""
    programs = StandIns(tmp_path, gcloud=GCLOUD, sleep=SLEEP)
    states, statuses = tmp_path / "states", tmp_path / "statuses"

    def run(said, ends, *options, **more):
        states.write_text("".join(f"{s}\n" for s in said))
        statuses.write_text("".join(f"{s}\n" for s in ends))
        (tmp_path / "states.asked").unlink(missing_ok=True)
        words = ("launch/tpu_pod.sh", "--type=v5p-64", "--zone=here", "--project", "mine", *options, *RUN)
        code, printed = programs.run(*words, STATES=str(states), STATUSES=str(statuses), **more)
        return code, [action(call) for call in programs.calls() if call[0] == "gcloud"], printed

    run.programs = programs
    return run


def action(call):
    """create, describe, delete, copy, install, train, ask."""
    if "ssh" in call:
        command = call[-1]
        return "train" if "tpu_worker" in command else "ask" if "kill" in command else "install"
    return next("copy" if w == "scp" else w for w in call if w in ("create", "describe", "delete", "scp"))


FIRST = ["describe", "create", "describe", "copy", "install", "train"]


def test_a_run_from_nothing_to_the_end(pod):
    code, actions, _ = pod(["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], [0])
    assert code == 0
    assert actions == ["describe", "create", "describe", "describe", "describe", "copy", "install", "train", "delete"]


def test_what_gcloud_is_told(pod):
    pod(["", "ACTIVE"], [0], "--spot", "--hours=7", "--set=xla_tpu_scoped_vmem_limit_kib=65536")
    calls = [c for c in pod.programs.calls() if c[0] == "gcloud"]
    (create,) = [c for c in calls if "create" in c]
    assert create[1:5] == ["compute", "tpus", "queued-resources", "create"] and create[5] == "flux"
    wanted = {"--node-id=flux", "--zone=here", "--project=mine", "--accelerator-type=v5p-64", "--spot"}
    assert wanted | {"--runtime-version=v2-alpha-tpuv5", "--valid-until-duration=7h"} == set(create[6:])
    (train,) = [c[-1] for c in calls if "tpu_worker" in c[-1]]
    words = shlex.split(train.removeprefix("--command="))
    assert words == [
        *("bash", "mvgrpo_jax/launch/tpu_worker.sh", "--chip=v5p", "--set=xla_tpu_scoped_vmem_limit_kib=65536"),
        *(*RUN, "--config.mesh.devices=32"),
    ]
    assert all("--worker=all" in c for c in calls if {"ssh", "scp"} & set(c))


def test_where_asking_fails_it_ends_and_deletes(pod):
    code, actions, said = pod([""], [], ON_CREATE="1", ON_DELETE="1")
    assert code == 1 and actions == ["describe", "create", "delete", "describe"] and "could not be asked for" in said
    assert "costs" not in said  # nothing is there
    code, actions, said = pod(["", "PROVISIONING", "FAILED"], [])
    assert code == 1 and actions[-1] == "delete" and "train" not in actions and "failed" in said


def test_where_the_machines_cannot_be_prepared_it_is_given_back(pod):
    code, actions, _ = pod(["", "ACTIVE"], [], ON_SCP="1")
    assert code == 1 and actions == ["describe", "create", "describe", "copy", "delete"]


@pytest.mark.parametrize("status", [1, 2])
def test_where_training_fails_it_is_given_back(pod, status):
    code, actions, _ = pod(["", "ACTIVE"], [status])
    assert code == status and actions == [*FIRST, "delete"]


def test_a_slice_that_is_there_is_used(pod):
    code, actions, _ = pod(["ACTIVE"], [0], "--keep")
    assert code == 0 and actions == ["describe", "copy", "install", "train"]


def test_a_slice_at_whose_work_another_run_is_stays(pod):
    code, actions, said = pod(["ACTIVE"], [73])
    assert code == 2 and "delete" not in actions and "another --name" in said


def test_a_run_that_stopped_goes_on_where_the_slice_is_there(pod):
    code, actions, _ = pod(["", "ACTIVE"], [75, "lost", 0])
    assert code == 0 and actions == [*FIRST, "describe", "train", "describe", "train", "delete"]


@pytest.mark.parametrize("state", ["SUSPENDED", "SUSPENDING", "FAILED", ""])
def test_a_slice_that_was_taken_away_is_asked_for_again(pod, state):
    code, actions, _ = pod(["", "ACTIVE", state, "PROVISIONING", "ACTIVE"], ["lost", 0])
    away = ["delete", "create"] if state else ["create"]
    assert code == 0 and actions == [*FIRST, "describe", *away, "describe", "describe", "copy", "install", "train", "delete"]


def test_restarts_have_an_end(pod):
    code, actions, _ = pod(["", "ACTIVE"], [75, 75, 75, 75], "--restarts=2")
    assert code == 75 and actions.count("train") == 3 and actions[-1] == "delete"


def test_stopped_by_a_signal_the_run_saves_first(pod):
    code, actions, said = pod(["", "ACTIVE"], ["wait"], stop_at="tpu_worker")
    assert code == 75 and actions == [*FIRST, "ask", "delete"] and "saves first" in said


def test_stopped_while_it_waits(pod):
    code, actions, _ = pod(["", "PROVISIONING"], [], stop_at="describe")
    assert code == 75 and actions[-1] == "delete" and "train" not in actions


def test_a_slice_that_cannot_be_deleted_is_named(pod):
    code, _, said = pod(["", "ACTIVE"], [0], ON_DELETE="1")
    assert code == 0 and "costs until: gcloud compute tpus queued-resources delete flux --zone=here" in said


def test_dry_run_starts_nothing(pod):
    code, actions, said = pod([], [], "--dry_run")
    assert code == 0 and not actions
    kinds = [action(shlex.split(line)) for line in said.splitlines() if line.startswith("gcloud")]
    assert kinds == ["describe", "create", "copy", "install", "train", "delete"]


@pytest.mark.parametrize("kind, devices", [("v5p-64", 32), ("v5litepod-256", 256), ("v6e-8", 8)])
def test_devices_of_a_slice(pod, kind, devices):
    _, _, said = pod([], [], "--dry_run", f"--type={kind}")
    assert f"--config.mesh.devices={devices}" in said


@pytest.mark.parametrize(
    "options, message", [(("--type=v5p",), "expected v5p-N"), (("--zone=",), "no zone"), (("--hours=0",), "whole number")]
)
def test_mistakes(pod, options, message):
    code, actions, said = pod([], [], *options)
    assert code == 2 and message in said and not actions


WORKER = 'case "$*" in *launch.flags*) echo "export FLAG=set" ;; *) echo "$FLAG $*"; exit ${CODE:-0} ;; esac'


@pytest.mark.parametrize("code", [0, 2, 75])
def test_a_machine_says_how_its_run_ended(tmp_path, code):
    programs = StandIns(tmp_path, python3=WORKER)
    done = subprocess.run(
        ["bash", str(ROOT / "launch/tpu_worker.sh"), "--chip=v5e", *RUN],
        env=programs.environment(HOME=str(tmp_path), CODE=str(code)),
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == f"set -m mvgrpo_jax.main {' '.join(RUN[1:])} --distributed" and lines[-1] == f"mvgrpo status {code}"
    assert not (tmp_path / "mvgrpo.pid").exists()


def test_a_machine_with_a_run_takes_no_other(tmp_path):
    programs = StandIns(tmp_path, python3=WORKER)
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "mvgrpo.pid").write_text(str(other.pid))
        done = subprocess.run(
            ["bash", str(ROOT / "launch/tpu_worker.sh"), "--chip=v5e", *RUN],
            env=programs.environment(HOME=str(tmp_path)),
            capture_output=True,
            text=True,
        )
        other.kill()
    assert done.stdout == "mvgrpo status 73\n" and str(other.pid) in done.stderr and not programs.calls()
