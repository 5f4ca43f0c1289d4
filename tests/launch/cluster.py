"""A real SLURM on this machine, for as long as it is open: munged, slurmctld and two slurmd of our own, in a folder. Both nodes
are this machine: parts of one job never share a node."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000
SlurmdParameters=config_overrides
JobRequeue=1
KillWait={grace}
ReturnToService=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 Port={first} CPUs=8 State=UNKNOWN
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; '' where there can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started by root alone"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """folder: of its files, which the daemons' logs tell a failure from. grace: seconds between SIGTERM and SIGKILL."""

    def __init__(self, folder: Path, grace: int):
        self.folder = folder
        self.nodes = (socket.gethostname(), "localhost")  # names that resolve
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (folder / name).mkdir()
        ports = dict(zip(("controller", "first", "second"), (_free_port() for _ in range(3))))
        text = CONF.format(host=self.nodes[0], folder=folder, grace=grace, **ports)
        (folder / "slurm.conf").write_text(text)
        self.environment = os.environ | {"PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons = []

    def __enter__(self):
        folder, key = self.folder, self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
        munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
        self.start(munge)
        self.until(lambda: (folder / "munge.socket").exists(), "munged")
        self.start(["slurmctld", "-D"])
        for node in self.nodes:
            self.start(["slurmd", "-D", "-N", node])
        self.until(lambda: self.say("sinfo", "--noheader", "--format=%D %T").split() == ["2", "idle"], "the nodes")
        return self

    def __exit__(self, *_):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.say("scancel", "--user=root")
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def start(self, words):
        with (self.folder / f"{words[0]}.out").open("a") as file:
            self.daemons.append(subprocess.Popen(words, env=self.environment, stdout=file, stderr=subprocess.STDOUT))

    def say(self, *words) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says, by name."""
        words = self.say("scontrol", "show", "job", number, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def until(self, reached, what: str, seconds: float = 60.0):
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                logs = {p.name: p.read_text(errors="replace")[-1500:] for p in self.folder.glob("*.log")}
                raise TimeoutError(f"waited {seconds:.0f} s for {what}: {logs}")
            time.sleep(0.5)
