"""Rows that others published: Table 1 of MV-GRPO, with its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "assets" / "published.json"


def read() -> dict[str, Any]:
    """{'source': where they stand, 'columns': titles, 'rows': [[trained on, method, numbers in the order of columns]]}."""
    return json.loads(FILE.read_text(encoding="utf-8"))
