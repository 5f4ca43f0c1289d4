"""Checkpoints of a run: training state and data cursor, and the best weights; written in the background, atomically."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.run import integrity
from mvgrpo_jax.storage import is_remote, remove

FINGERPRINT = "fingerprint"  # beside what a checkpoint's data holds
FAULTS = (OSError, ValueError, RuntimeError, UserError)  # of writing


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def steps(folder: Path) -> list[int]:
    """Iterations that have a checkpoint in a folder, the newest first; damaged ones too."""
    return sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True) if folder.exists() else []


class Series:
    """Checkpoints of one kind in a folder, by iteration: arrays ('state') and numbers ('data'), the newest `keep`."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder if is_remote(folder) else folder.absolute()
        self._writing = 0
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=True,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options, item_names=("state", "data"))

    def _seal(self) -> None:
        """Orbax calls this in the first process when all is written and not yet committed."""
        under_way = [*self.folder.glob(f"{self._writing}.orbax-checkpoint-tmp*"), self.folder / str(self._writing)]
        for folder in under_way:  # which of the two depends on whether the storage can rename
            if folder.exists():
                integrity.write_list(folder)

    def save(self, iteration: int, state: Any, data: dict) -> None:
        """Starts writing in the background, in the place of what there is of this iteration and later ones; the error of an
        earlier write appears here."""
        self.manager.wait_until_finished()
        for step in [s for s in self.manager.all_steps() if s >= iteration]:
            self.manager.delete(step)
        self._writing = iteration
        data = data | {FINGERPRINT: integrity.fingerprint(state, data)}
        self.manager.save(iteration, args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)))

    def wait(self) -> None:
        self.manager.wait_until_finished()
        self.manager.check_for_errors()

    def steps(self) -> list[int]:
        return steps(self.folder)

    def restore(self, iteration: int, abstract: Any) -> tuple[Any, dict]:
        """(state, data) of an iteration; `abstract` is the state as ShapeDtypeStructs with shardings, on any mesh. UserError
        when it cannot be read."""
        state, data, fault = self._try(iteration, abstract)
        if fault:
            raise UserError(f"checkpoint {self.folder}/{iteration}: {fault}; bring it back from a copy, or take another one")
        return state, data

    def _try(self, iteration: int, abstract: Any) -> tuple[Any, Any, str]:
        """(state, data, '') or (None, None, what is wrong), in all processes alike but for the words."""
        if fault := hosts.decide(lambda: integrity.fault(self.folder / str(iteration))):
            return None, None, fault
        restored: Any = {"state": None, "data": None}
        try:
            restored = self.manager.restore(
                iteration,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
            )
        except Exception as error:  # orbax and tensorstore raise whatever they like over bytes that are wrong
            fault = f"it cannot be read ({first_line(error)})"
        if hosts.agree(bool(fault)):
            return None, None, fault or "another process could not read its part"
        state, data = restored["state"], dict(restored["data"])
        expected = data.pop(FINGERPRINT, None)  # checkpoints of earlier versions have none
        if expected and (fault := integrity.altered(expected, integrity.fingerprint(state, data))):
            return None, None, fault
        return state, data, ""

    def newest(self, abstract: Any, *, discard: bool = False) -> tuple[int, Any, dict] | None:
        """(iteration, state, data) of the newest checkpoint that is whole; a warning names those that are passed over, and they
        are deleted if `discard`. None when nothing was ever saved. UserError when nothing that was saved can be read.

        All processes take the same one."""
        passed, found = {}, None
        for step in hosts.decide(self.steps):
            state, data, passed[step] = self._try(step, abstract)
            if not passed[step]:
                del passed[step]
                found = step, state, data
                break
        listed = "; ".join(f"{step}: {fault}" for step, fault in passed.items())
        if not found and set(passed.values()) - {integrity.UNFINISHED}:
            raise UserError(
                f"no checkpoint in {self.folder} is whole ({listed}); bring one back from a copy, or delete that folder to "
                "begin again from the pipeline's weights"
            )
        if passed and hosts.is_chief():
            where = f"the checkpoint of iteration {found[0]}" if found else "the pipeline's weights"
            warnings.warn(f"{self.folder}: damaged checkpoints are passed over ({listed}) for {where}", stacklevel=2)
        if passed and discard:
            hosts.decide(lambda: [remove(self.folder / str(step)) for step in passed])
            self.manager.reload()
        return found

    def close(self) -> None:
        self.manager.close()


class Checkpoints:
    """`last`: the newest `keep` checkpoints of the whole training state; `best`: the weights that evaluation liked most, as it
    used them, without the optimiser's."""

    def __init__(self, workdir: Path, keep: int):
        self.last = Series(workdir / "checkpoints", keep)
        self.best = Series(workdir / "best", 1)

    def latest(self) -> int | None:
        """The newest iteration that was saved, whole or not."""
        return self.last.manager.latest_step()

    def restore(self, iteration: int, abstract: Any) -> tuple[Any, dict]:
        """(state, data) of an iteration, as Series.restore."""
        return self.last.restore(iteration, abstract)

    def save(self, iteration: int, state: Any, data: dict) -> None:
        """Begins once the best weights are written whose score data may hold: a run that is killed between the two would look
        for them in vain."""
        self._wait(self.best)
        self._write(self.last, iteration, state, data)

    def save_best(self, iteration: int, weights: Any, data: dict) -> None:
        """weights: as evaluation used them (of adapters, the adapters alone)."""
        self._write(self.best, iteration, weights, data)

    def _write(self, series: Series, iteration: int, state: Any, data: dict) -> None:
        if jax.process_count() > 1:  # the barriers of two writes at once have one name, and orbax fails
            self.wait()
        try:
            series.save(iteration, state, data)
        except FAULTS as error:
            raise self._failure(series, error) from error

    def wait(self) -> None:
        """Returns when everything is written. Raises UserError when it could not be."""
        for series in (self.last, self.best):
            self._wait(series)

    def _wait(self, series: Series) -> None:
        try:
            series.wait()
        except FAULTS as error:
            raise self._failure(series, error) from error

    def _failure(self, series: Series, error: Exception) -> UserError:
        whole = (step for step in self.last.steps() if not integrity.fault(self.last.folder / str(step)))
        return UserError(
            f"a checkpoint could not be written to {series.folder} ({first_line(error)}); free some space and run the same "
            f"command again, it goes on from iteration {next(whole, 0)}"
        )

    def close(self) -> None:
        self.last.close()
        self.best.close()


def prepare(state: Any) -> None:
    """Compiles now what the first save of such a state would compile."""
    integrity.fingerprint(state, {})


def abstract(state_shapes: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs that say where every leaf goes."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state_shapes, shardings)
