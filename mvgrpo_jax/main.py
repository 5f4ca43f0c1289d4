"""Trains a text-to-image pipeline by a config; the same command goes on with a run that was stopped.

python -m mvgrpo_jax.main --config=configs/NAME.py --workdir=DIR [--config.key=value ...]
"""

from __future__ import annotations

import functools
import os
import sys

from absl import app, flags, logging

from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.errors import UserError, reports_errors

flags.DEFINE_string("config", None, "A file of configs/; --config.KEY=VALUE overrides what it says.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, pictures and metrics go.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Joins the other processes of a TPU, SLURM or Kubernetes job.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "Elsewhere: HOST:PORT of process 0, by which the processes join.")
PROCESSES = flags.DEFINE_integer("processes", 0, "With --coordinator: how many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "With --coordinator: the number of this one, from 0.")
CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder that keeps compiled programs between runs, empty for none. [the user's cache, or beside --workdir]",
)
PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "Prints every setting, a 'key = value' a line, and ends.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Checks everything, prints what an iteration costs and the mesh, and ends.")


@reports_errors
def run(path: str | None, words: list[str], argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; settings are given as --config.key=value")
    if not path:
        raise UserError("no config: give --config=configs/NAME.py")
    if not (WORKDIR.value or PRINT_CONFIG.value or DRY_RUN.value):
        raise UserError("no workdir: give --workdir=DIR, where checkpoints, pictures and metrics go")
    config = arguments.from_arguments(path, words)
    config.lock()
    if PRINT_CONFIG.value:
        print(arguments.shown(config))
        return
    if DISTRIBUTED.value or COORDINATOR.present or PROCESSES.present or PROCESS_ID.present:
        from mvgrpo_jax.parallel import joining

        joining.join(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
    import jax

    from mvgrpo_jax.run import compiled, environment, loop

    compiled.keep(CACHE.value, WORKDIR.value)
    if flags_found := environment.describe(os.environ, jax.default_backend()):
        loop.say(flags_found)
    if DRY_RUN.value:
        print(loop.dry_run(config))
        return
    loop.train(config, WORKDIR.value)


def main() -> None:
    logging.set_verbosity(logging.WARNING)
    path, words, rest = reports_errors(arguments.split)(sys.argv[1:])
    app.run(functools.partial(run, path, words), argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
