"""Weights of judges written once as safetensors, file to file, one tensor in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvgrpo_jax import rewards
from mvgrpo_jax.convert.companions import as_json
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.convert.owned import Owned
from mvgrpo_jax.convert.weights import checked
from mvgrpo_jax.convert.writing import SHARD, write_folder
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import kinds

NOTE = "judge.json"  # what was converted: its kind and the name of its file


def origin(place: str | Path) -> str:
    """The name of the file or folder that weights came from: that of `place`, or what is noted there."""
    note = Path(place) / NOTE
    return read_json(note).get("source", "") if note.exists() else Path(place).name


def convert(kind: str, src: Path, dst: Path, base: str = "", *, dtype: Any = None, limit: int = SHARD) -> None:
    """Writes the weights of a judge of this kind, checked against its sizes, to `dst` as safetensors, under the names that the
    judge reads, with what else a folder has beside them. base: as the judge's setting.

    UserError for a kind without weights of its own, and for weights that do not fit.
    """
    if not hasattr(kinds.module(kind).JUDGE, "published"):
        raise UserError(f"the judge {kind!r} has no weights to convert; there are: {', '.join(with_weights())}")
    options = {kinds.place(kind): str(src)} | ({"base": base} if base else {})
    judge = None if src.is_dir() else kinds.module(kind).JUDGE.published(**options)
    judge = judge or rewards.make(kind, options)  # a folder says its sizes
    source, _ = checked(judge.network, judge.opened())
    around = {path.name: path.read_bytes() for path in sorted(src.iterdir()) if _is_small(path)} if src.is_dir() else {}
    around[NOTE] = as_json({"kind": kind, "source": origin(src)})
    owned = Owned(dst)
    owned.claim(around, around)
    write_folder(source, dst, "model", dtype=dtype, limit=limit)
    owned = Owned(dst)
    for name, content in around.items():
        owned.put(name, content)


def _is_small(path: Path) -> bool:
    """Whether a file of a model's folder is a config or a part of a tokenizer."""
    return path.suffix in (".json", ".txt", ".gz") and not path.name.endswith(".index.json")


def with_weights() -> list[str]:
    """The kinds that have weights of their own."""
    return [kind for kind in kinds.names() if hasattr(kinds.module(kind).JUDGE, "published")]
