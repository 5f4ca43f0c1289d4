"""The training curves of all stages in one picture: `python -m mvgrpo_jax.nano.pretrain.curve FOLDER FILE.png`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

STAGES = {
    "vae": "autoencoder: squared error",
    "clip": "contrastive: accuracy against an altered caption",
    "flow": "flow: velocity error",
}
SHOWN = {"vae": "square", "clip": "twins", "flow": "loss"}


def draw(folder: Path, path: Path) -> None:
    """Reads the stages' CSV logs from `folder` and writes the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(STAGES), figsize=(13, 3.4), dpi=100)
    for axis, (stage, title) in zip(axes, STAGES.items()):
        rows = list(csv.DictReader((folder / f"{stage}.csv").open()))
        axis.plot([int(r["step"]) for r in rows], [float(r[SHOWN[stage]]) for r in rows])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if stage == "vae":
            axis.set_yscale("log")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
