"""launch/local.sh: what each process is told, which status it ends with, and how it is stopped."""

import pytest

from tests.launch.stand_ins import StandIns

# A trainer: process I ends with CODE_I, or waits for SIGTERM and ends with 75 where that is 'wait'.
TRAINER = """
echo "$XLA_FLAGS" >> "$RECORD.flags"
id=${@: -1}
code=CODE_${id#*=}
[ "${!code}" = wait ] || exit "${!code}"
trap 'echo "stopped $id"; exit 75' TERM
echo "ready $id" >> "$RECORD.ready"
while true; do sleep 0.05; done
"""
RUN = ("--", "--config=configs/flux_nano.py", "--workdir=/runs/a b", "--config.views.perspectives=('x y',)")


@pytest.fixture
def trainer(tmp_path):
    return StandIns(tmp_path, trainer=TRAINER)


def local(trainer, *options, **more):
    return trainer.run("launch/local.sh", "--python=trainer", *options, *RUN, RECORD=str(trainer.record), XLA_FLAGS="", **more)


def test_every_process_is_told_who_it_is(trainer):
    code, _ = local(trainer, "--processes=3", "--devices", "2", CODE_0="0", CODE_1="0", CODE_2="0")
    assert code == 0
    calls = trainer.calls()
    assert sorted(c[-1] for c in calls) == ["--process_id=0", "--process_id=1", "--process_id=2"]
    (same,) = {tuple(c[:-1]) for c in calls}
    assert same[1:6] == ("-m", "mvgrpo_jax.main", *RUN[1:]) and same[6] == "--config.mesh.devices=6"
    assert same[7].startswith("--coordinator=127.0.0.1:") and same[8] == "--processes=3"
    assert set(open(f"{trainer.record}.flags")) == {"--xla_force_host_platform_device_count=2\n"}


@pytest.mark.parametrize("codes, status", [(("0", "0"), 0), (("0", "2"), 2), (("75", "0"), 75), (("137", "75"), 137)])
def test_the_status_is_the_highest(trainer, codes, status):
    assert local(trainer, CODE_0=codes[0], CODE_1=codes[1])[0] == status


def test_a_signal_reaches_all_and_is_waited_for(trainer, tmp_path):
    ready = tmp_path / "record.ready"
    stop = lambda: ready.exists() and ready.read_text().count("ready") == 2
    code, said = local(trainer, f"--logs={tmp_path / 'logs'}", stop_when=stop, CODE_0="wait", CODE_1="wait")
    assert code == 75 and "stopped --process_id=0" in said
    assert "stopped --process_id=1" in (tmp_path / "logs" / "process-1.log").read_text()


def test_dry_run_starts_nothing(trainer, tmp_path):
    code, said = local(trainer, "--dry_run", f"--logs={tmp_path / 'logs'}")
    assert code == 0 and not trainer.calls() and not (tmp_path / "logs").exists()
    lines = said.splitlines()
    assert lines[0].startswith("mkdir -p") and [line.split()[-1] for line in lines[1:]] == ["--process_id=1", "--process_id=0"]
    assert "'--workdir=/runs/a b'" in said


@pytest.mark.parametrize(
    "options, message",
    [
        (("--processes=0",), "expected a whole number of at least 1"),
        (("--devices", "x"), "expected a whole number"),
        (("--nodes=2",), "unknown option --nodes"),
    ],
)
def test_mistakes(trainer, options, message):
    code, said = local(trainer, *options)
    assert code == 2 and message in said and not trainer.calls()
