"""A run as trackers see it."""

import json

import numpy as np

from mvgrpo_jax.run import trackers
from tests.runs import small_config

NUMBERS = ({"eval/clip": 0.25, "loss": 1.5, "gone": float("nan")}, {"eval/clip": 0.5, "loss": -1.0})
CAPTIONS = ["a red circle [clip 0.20]", "a blue cross, twice [clip 0.30]"]
IMAGES = {i: np.random.default_rng(i).integers(0, 256, (8, 6, 3), dtype=np.uint8) for i in range(2)}


def begin(workdir, *names, name=""):
    config = small_config()
    config.log.trackers = names
    config.log.tracker.update({"project": "tests", "name": name, "offline": True})
    workdir.mkdir(exist_ok=True)
    return trackers.begin(config, workdir)


def two_parts(workdir, tracker):
    """A run of one iteration with an evaluation, gone on with for another one."""
    first = begin(workdir, tracker)
    first.pictures(0, IMAGES, CAPTIONS)
    first.numbers(0, NUMBERS[0])
    first.close()
    second = begin(workdir, tracker)
    second.numbers(1, NUMBERS[1])
    second.close()
    return json.loads((workdir / "trackers.json").read_text()) if (workdir / "trackers.json").exists() else {}


class Fake:
    """Keeps what it is given; away: fails instead."""

    def __init__(self):
        self.calls, self.away = [], False

    def numbers(self, iteration, values):
        if self.away:
            raise ConnectionError("nobody there")
        self.calls.append((iteration, values))

    def pictures(self, iteration, shown):
        self.calls.append((iteration, shown))

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")
