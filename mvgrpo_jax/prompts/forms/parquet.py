"""Parquet, as data sets on the Hub are stored, by pyarrow, which is an extra. Columns of bytes (pictures) are not read."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts.records import EXPECTED, Record, Refused


def records(path: Path) -> list[Record]:
    """The rows, cells by column. UserError: pyarrow is not installed, or the file is missing or cannot be read. Refused: it is
    no Parquet."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(
            f"prompt file {path}: reading Parquet needs pyarrow, which is not installed; pip install 'mvgrpo_jax[parquet]', or "
            "save the table as CSV or JSON lines"
        ) from None
    try:
        with path.open("rb") as file:
            table = parquet.ParquetFile(file)
            names = [field.name for field in table.schema_arrow if not _holds_bytes(field.type)]
            rows = table.read(columns=names).to_pylist()
    except FileNotFoundError:
        raise UserError(f"prompt file {path} does not exist; {EXPECTED}") from None
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # Arrow raises OSErrors of its own about content
            raise UserError(f"prompt file {path} cannot be read ({error.strerror}); {EXPECTED}") from None
        raise Refused(f"it is no Parquet file or damaged ({error}); copy it again") from None
    return [Record(f"row {number}", row, "column") for number, row in enumerate(rows, 1)]


def _holds_bytes(kind) -> bool:
    """Whether a column's type is bytes, or holds some, as the Hub's pictures {bytes, path} do."""
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
