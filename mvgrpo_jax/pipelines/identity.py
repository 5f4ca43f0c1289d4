"""Whether two pipeline folders hold the same: a checksum that is quick to take of many gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mvgrpo_jax.pipelines.flux import EMBEDDED

PIECES, PIECE = 64, 1 << 16  # of a file, evenly spread; a smaller file is read whole


def identity(folder: str | Path) -> str:
    """SHA-256 over names, sizes and contents of all files of a pipeline's components; of a large file over PIECES pieces of
    it, which a training step changes all over. '' where there is no pipeline."""
    folder = EMBEDDED if str(folder) == "flux-nano" else Path(folder)
    digest = hashlib.sha256()
    if not (folder / "model_index.json").is_file():
        return ""
    for path in sorted([folder / "model_index.json", *(p for p in folder.glob("[!.]*/[!.]*") if p.is_file())]):
        length = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{length}\0".encode())
        with path.open("rb") as file:
            if length <= PIECES * PIECE:
                digest.update(file.read())
                continue
            for i in range(PIECES):
                file.seek((length - PIECE) * i // (PIECES - 1))
                digest.update(file.read(PIECE))
    return digest.hexdigest()
