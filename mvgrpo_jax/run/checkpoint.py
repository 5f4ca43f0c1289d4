"""Checkpoints of a run: training state and data cursor, written in the background, atomically, the newest few kept."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import is_chief

# Keys that may change between a run and its continuation.
_SERVICE = "endpoints key_ verify ca_file concurrency attempt_s request_s batch_s retries backoff_s hedge breaker cooldown_s"
FREE = (
    *("iterations", "checkpoint.", "eval.", "log.", "mesh.", "watch.", "views.missing", "views.patience", "views.overlap"),
    *(f"views.service.{name}" for name in (*_SERVICE.split(), "response_kb")),  # where and how to ask, not what
)


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    return ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "data"))


class Checkpoints:
    """`newest`: the last `keep` checkpoints; `best`: the one with the highest evaluation."""

    def __init__(self, workdir: Path, keep: int):
        self.newest = _manager(workdir / "checkpoints", keep)
        self.best = _manager(workdir / "best", 1)

    def latest(self) -> int | None:
        return self.newest.latest_step()

    def save(self, iteration: int, state: Any, data: dict) -> None:
        self._write(self.newest, iteration, state, data)

    def save_best(self, iteration: int, state: Any, data: dict) -> None:
        self._write(self.best, iteration, state, data)

    def _write(self, manager: ocp.CheckpointManager, iteration: int, state, data) -> None:
        """Starts writing in the background; the error of an earlier write appears here."""
        try:
            manager.save(
                iteration,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failure(iteration, error) from error

    def wait(self) -> None:
        """Returns when everything is on disk. Raises UserError when it could not be written."""
        for manager in (self.newest, self.best):
            try:
                manager.wait_until_finished()
                manager.check_for_errors()
            except (OSError, ValueError, RuntimeError) as error:
                raise self._failure(None, error) from error

    def _failure(self, iteration, error) -> UserError:
        at = "a checkpoint" if iteration is None else f"the checkpoint of iteration {iteration}"
        kept = [s for s in self.newest.all_steps() if s != iteration]
        return UserError(
            f"{at} could not be written to {self.newest.directory} ({str(error).strip().splitlines()[0]}); free some space "
            f"and run the same command again, it goes on from iteration {max(kept, default=0)}"
        )

    def restore(self, iteration: int, abstract: Any) -> tuple[Any, dict]:
        """(state, data) of an iteration; `abstract` is the state as ShapeDtypeStructs with shardings."""
        try:
            restored = self.newest.restore(
                iteration,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
            )
        except (ValueError, OSError, KeyError) as error:
            raise UserError(
                f"checkpoint {self.newest.directory}/{iteration} cannot be read ({str(error).strip().splitlines()[0]}); remove "
                "that folder to go on from the one before it"
            ) from error
        return restored["state"], restored["data"]

    def close(self) -> None:
        self.newest.close()
        self.best.close()


def abstract(state_shapes: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs that say where every leaf goes."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state_shapes, shardings)


def flatten(config: dict, prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    out = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        out |= flatten(value, name + ".") if isinstance(value, dict) else {name: value}
    return out


def value(config: dict, key: str) -> str:
    return repr(config[key]) if key in config else "not set"


def claim(workdir: Path, config: dict) -> contextlib.AbstractContextManager:
    """Records the run's config in the workdir and keeps other processes out until the returned context ends. UserError when it
    holds a run of another config, or when a process is at work in it."""
    path = workdir / "config.json"
    config = json.loads(json.dumps(config))
    if path.exists():
        old, new = flatten(json.loads(path.read_text())), flatten(config)
        changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and not k.startswith(FREE)]
        if changed:
            lines = "\n  ".join(f"{k}: {value(old, k)} there, {value(new, k)} now" for k in changed)
            raise UserError(
                f"{workdir} holds another run:\n  {lines}\nchoose another --workdir, or give the same config to go on with it"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    if not is_chief():
        return contextlib.nullcontext()
    held = hold(workdir)
    with atomic(path) as part:
        part.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return held


def hold(workdir: Path) -> contextlib.AbstractContextManager:
    """An open file with the system's lock, which ends with the process however it ends. UserError when another one has it."""
    file = (workdir / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"{owner} is training in {workdir}; two would overwrite each other's files. Wait for it or stop it, or choose "
            "another --workdir"
        ) from None
    except OSError:
        return file  # a file system without locks
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
