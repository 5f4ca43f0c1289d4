"""Trains a text-to-image pipeline by a config; the same command goes on with a run that was stopped.

python -m mvgrpo_jax.main --config=configs/NAME.py --workdir=DIR [--config.key=value ...]
"""

from __future__ import annotations

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from mvgrpo_jax.configuration.arguments import check_arguments
from mvgrpo_jax.errors import reports_errors

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, pictures and metrics go.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Joins the other processes of a pod (jax.distributed).")
CACHE = flags.DEFINE_string("compilation_cache", "", "Folder that keeps compiled programs between runs.")


@reports_errors
def run(argv: list[str]) -> None:
    del argv
    import jax

    if DISTRIBUTED.value:
        jax.distributed.initialize()
    if CACHE.value:
        jax.config.update("jax_compilation_cache_dir", CACHE.value)
    from mvgrpo_jax.run.loop import train

    train(CONFIG.value, WORKDIR.value)


def main() -> None:
    logging.set_verbosity(logging.WARNING)
    reports_errors(check_arguments)(sys.argv[1:])
    app.run(run)


if __name__ == "__main__":
    main()
