"""What pages share that are made to be opened from disk: their style, figures that are part of the file, tables of captions."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.storage import is_remote

# The beginning of a page: up to its title, which is `title`.
HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:.4rem;vertical-align:top;width:540px}
figure img{width:100%}figcaption{color:#555}.text td{text-align:left}.wide{max-width:100%}
pre{background:#f6f6f6;padding:1rem;overflow:auto}</style>
<h1>{{ title }}</h1>
"""
# Of plots as `curves.figure` gives them.
FIGURES = """{% for p in plots %}<figure><img src="data:image/png;base64,{{ p.data }}" alt="{{ p.title }}">
<figcaption><b>{{ p.title }}.</b> {{ p.text }}</figcaption></figure>{% endfor %}
"""


def embedded(data: bytes) -> str:
    """A file's bytes for a data: address."""
    return base64.b64encode(data).decode()


def drawn(figure) -> bytes:
    """The PNG of a matplotlib figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def axes(width: float = 7.2, height: float = 3.6, fitted: bool = False):
    """(figure, axes) over iterations. Not a figure of pyplot's: those need a screen, and only the main thread may draw them.

    fitted: the margins are what stands in them takes, for which everything is drawn twice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="tight" if fitted else None)
    axes = figure.add_subplot()
    if not fitted:
        figure.subplots_adjust(left=0.125, right=0.985, bottom=0.13, top=0.93)  # for -0.000175, and a power of ten
    axes.set_xlabel("iteration")
    axes.grid(alpha=0.3)
    return figure, axes


def names(workdirs: list[Path]) -> list[str]:
    """The ends of the paths, as long as they must be to differ. UserError where two are the same."""
    full = [str(w) if is_remote(w) else os.path.abspath(w) for w in workdirs]
    parts = [path.rstrip("/").split("/") for path in full]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["/".join(words[-count:]) for words in parts]
        if len(set(found)) == len(found):
            return found
    twice = next(path for path in full if full.count(path) > 1)
    raise UserError(f"{twice} is given twice; name each run once")
