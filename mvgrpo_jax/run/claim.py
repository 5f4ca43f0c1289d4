"""A workdir belongs to one run, and to one job at a time."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from mvgrpo_jax.configuration import continuation
from mvgrpo_jax.convert.files import read_json, write_json
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.pipelines.identity import identity
from mvgrpo_jax.storage import hold

CONFIG, PIPELINE = "config.json", "pipeline.json"


@contextlib.contextmanager
def claim(workdir: Path, config: dict):
    """Records the run's config in the workdir and keeps other jobs out; yields `check()`, which raises UserError when another
    one has taken the folder over all the same. Every process calls this, the first one acts.

    UserError when the workdir holds a run that this config does not continue, when a job is at work in it, or when it cannot be
    written.
    """
    with contextlib.ExitStack() as stack:
        held = []

        def take() -> None:
            try:
                workdir.mkdir(parents=True, exist_ok=True)
                held.append(stack.enter_context(hold(workdir)))
                record(workdir, json.loads(json.dumps(config)))
            except UserError:
                raise
            except Exception as error:  # clients of object storage raise their own
                raise UserError(
                    f"--workdir {workdir} cannot be written ({error}); check the name, the rights and the connection"
                ) from error

        hosts.decide(take)
        yield lambda: hosts.decide(lambda: held[0].check())


def record(workdir: Path, config: dict) -> None:
    """Writes config and pipeline of a run. UserError when others are there that this one does not continue."""
    now = {"sha256": identity(config["pipeline"])} if "pipeline" in config else {}
    if (workdir / CONFIG).exists():
        old = read_json(workdir / CONFIG)
        before = read_json(workdir / PIPELINE) if (workdir / PIPELINE).exists() else {}
        known = bool(now.get("sha256") and before.get("sha256"))
        same = known and now == before
        lines = continuation.changes(old | ({"pipeline": config["pipeline"]} if same else {}), config)
        if known and not same and old["pipeline"] == config["pipeline"]:
            lines.append(f"pipeline: {config['pipeline']} holds other weights than it did then")
        if lines:
            listed = "\n  ".join(lines)
            raise UserError(
                f"{workdir} holds another run:\n  {listed}\nchoose another --workdir, or give the same config to go on with it"
            )
    write_json(workdir / PIPELINE, now)
    write_json(workdir / CONFIG, config)
