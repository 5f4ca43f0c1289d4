"""Programs that stand on PATH for others: they write down what they were asked, and do what a test says."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class StandIns:
    """folder: of the programs and of the record of their calls, a line each with the words quoted."""

    def __init__(self, folder: Path, **scripts: str):
        """scripts: program -> what it does after it has written its call down; bash."""
        self.programs, self.record = folder / "bin", folder / "record"
        self.programs.mkdir()
        self.record.write_text("")
        for name, text in scripts.items():
            path = self.programs / name
            head = f'#!/bin/bash\nprintf "%s\\n" "{name}$(printf " %q" "$@")" >> "{self.record}"\n'
            path.write_text(head + text + "\n")
            path.chmod(0o755)

    def environment(self, **more) -> dict[str, str]:
        return os.environ | {"PATH": f"{self.programs}:{os.environ['PATH']}"} | more

    def calls(self) -> list[list[str]]:
        return [shlex.split(line) for line in self.record.read_text().splitlines()]

    def run(self, *words, stop_at="", stop_when=None, **more):
        """(status, what was printed) of a launcher, which gets SIGTERM when a call holds `stop_at` or stop_when() is true."""
        stop_when = stop_when or (stop_at and (lambda: stop_at in self.record.read_text()))
        self.record.write_text("")
        with (self.record.parent / "printed").open("w+") as file:
            running = subprocess.Popen(
                ["bash", *words],
                cwd=ROOT,
                env=self.environment(**more),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            deadline = time.monotonic() + 30
            while stop_when and not stop_when():
                assert running.poll() is None and time.monotonic() < deadline, self.record.read_text()
                time.sleep(0.02)
            if stop_when:
                running.terminate()
            try:
                code = running.wait(timeout=60)
            finally:
                if running.poll() is None:
                    os.killpg(running.pid, signal.SIGKILL)
            file.seek(0)
            return code, file.read()
