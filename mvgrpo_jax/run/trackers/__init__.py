"""Programs that show a run while it goes on: TensorBoard, W&B, SwanLab, MLflow. metrics.jsonl has every number without them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mvgrpo_jax.configuration import continuation
from mvgrpo_jax.convert.files import read_json, write_json
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import is_chief
from mvgrpo_jax.run.trackers import keys
from mvgrpo_jax.run.trackers.base import Job, Picture, Tracker
from mvgrpo_jax.run.trackers.folder import Folder

# Name -> the module that must be installed, also the extra of setup.py that brings it. What TensorBoard needs is warned of.
NAMES = {"tensorboard": "", "wandb": "wandb", "swanlab": "swanlab", "mlflow": "mlflow"}
IDENTITY = "trackers.json"  # in a workdir: the names by which the trackers know the run, so that it goes on in them
FAILURES = 3  # calls in a row that fail, after which a tracker is left alone
PICTURES, SIDE = 16, 512  # of an evaluation that are sent at most, and the longer side that they are brought to


def check_installed(names: tuple[str, ...]) -> None:
    """UserError that names the extra of a tracker whose package is missing."""
    for name in names:
        if NAMES[name] and not importlib.util.find_spec(NAMES[name]):
            raise UserError(
                f"config.log.trackers: {name} needs the package {NAMES[name]}, which is not installed: "
                f"pip install 'mvgrpo_jax[{name}]', or leave it out"
            )


def begin(config, workdir: Path) -> Trackers:
    """The trackers of config.log, in the first of several processes; those of a run that is gone on with go on. UserError: a
    package that is missing, or a tracker that does not begin."""
    names = tuple(dict.fromkeys(config.log.trackers)) if is_chief() else ()
    check_installed(names)
    settings, flat = config.log.tracker, continuation.flatten(json.loads(config.to_json_best_effort()))
    identity = Identity(workdir)
    found = {}
    for name in names:
        job = Job(Folder(workdir / name), settings.project, settings.name or workdir.name, settings.offline, flat, identity)
        try:
            tracker = importlib.import_module(f"{__name__}.{name}").begin(job)
        except UserError:
            raise
        except Exception as error:  # whatever its client raises
            raise UserError(
                f"config.log.trackers: {name} did not begin ({type(error).__name__}: {error}). Log in to it, give "
                "--config.log.tracker.offline=True where it knows that, or leave it out"
            ) from error
        if tracker:
            found[name] = (tracker, job.folder)
    return Trackers(found)


class Identity:
    """What trackers.json of a workdir says."""

    def __init__(self, workdir: Path):
        self.path = workdir / IDENTITY

    def get(self, name: str, make: Callable[[], str] = lambda: secrets.token_hex(8)) -> str:
        """The run's name in a tracker; made and kept where there is none yet."""
        known = read_json(self.path) if self.path.exists() else {}
        if name not in known:
            known[name] = make()
            write_json(self.path, known)
        return known[name]


class Trackers:
    """All trackers of a run. None of them ends it: a call that fails is warned of, and after FAILURES in a row the tracker is
    left alone. Its calls may come from another thread than the one that began them."""

    def __init__(self, found: dict[str, tuple[Tracker, Folder]]):
        self._found = dict(found)
        self._failed = dict.fromkeys(found, 0)

    def __bool__(self) -> bool:
        return bool(self._found)

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        """Metrics by our names, and those of them that other programs have a name for by theirs. What is not finite is left
        out."""
        values = {name: value for name, value in (values | keys.aliases(values)).items() if math.isfinite(value)}
        self._each(lambda tracker: tracker.numbers(iteration, values))
        for name, (tracker, folder) in list(self._found.items()):
            if folder.due():
                self._do(name, lambda: (tracker.flush(), folder.copy()))  # noqa: B023  (called at once)

    def pictures(self, iteration: int, images: dict[int, np.ndarray], captions: list[str]) -> None:
        """The first PICTURES of an evaluation, uint8 [H, W, 3] by number, with the captions [N] of all of them."""
        shown = [Picture.of(number, images[number], captions[number], SIDE) for number in sorted(images)[:PICTURES]]
        self._each(lambda tracker: tracker.pictures(iteration, shown))

    def close(self) -> None:
        for name, (tracker, folder) in list(self._found.items()):
            self._do(name, lambda: (tracker.close(), folder.close()))  # noqa: B023

    def _each(self, task: Callable[[Tracker], None]) -> None:
        for name, (tracker, _) in list(self._found.items()):
            self._do(name, lambda: task(tracker))  # noqa: B023

    def _do(self, name: str, task: Callable[[], object]) -> None:
        try:
            task()
            self._failed[name] = 0
        except Exception as error:  # whatever its client raises: a server that is away must not end training
            self._failed[name] += 1
            last = self._failed[name] == FAILURES
            rest = "; it is left alone from here on" if last else ""
            print(f"warning: {name}: {type(error).__name__}: {error}{rest}. metrics.jsonl has every number", file=sys.stderr)
            if last:
                del self._found[name]
