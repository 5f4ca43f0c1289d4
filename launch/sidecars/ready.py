"""Waits until servers answer: python -m launch.sidecars.ready http://HOST:8100 ... [--while "PID ..."] [--seconds 3600]

Asks each for /health. Ends with status 1 where one of the processes of --while (the steps that started them) is gone first, and
after --seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
import urllib.request

PAUSE = 2.0


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait(urls: list[str], pids: list[int], seconds: float) -> str:
    """Returns '' when all answer, else what is wrong."""
    left, deadline = list(urls), time.monotonic() + seconds
    while left := [url for url in left if not healthy(url)]:
        if gone := [pid for pid in pids if not lives(pid)]:
            return f"the servers of process {gone[0]} ended before {', '.join(left)} answered"
        if time.monotonic() > deadline:
            return f"{', '.join(left)} did not answer within {seconds:.0f} s"
        time.sleep(PAUSE)
    return ""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m launch.sidecars.ready", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--while", dest="pids", default="", help="process ids, separated by spaces")
    parser.add_argument("--seconds", type=float, default=3600.0)
    options = parser.parse_args(argv)
    if wrong := wait(options.urls, [int(pid) for pid in options.pids.split()], options.seconds):
        print(f"error: {wrong}", file=sys.stderr)
        sys.exit(1)
    print(f"{len(options.urls)} servers answer", flush=True)


if __name__ == "__main__":
    main()
