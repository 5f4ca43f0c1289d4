"""The paper's Table 1 of any rows: Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import math
from typing import NamedTuple

from mvgrpo_jax.evaluation.intervals import Estimate

MARK = "published"  # what a row that was not measured here is marked by
DIGITS = 3


class Row(NamedTuple):
    """trained_on, method: its first cells. cells: by column; one that is missing is empty. kind: 'own', 'part' of one before
    it, or 'published', which was not measured here."""

    trained_on: str
    method: str
    cells: dict[str, Estimate | float]
    kind: str = "own"

    @property
    def label(self) -> str:
        return f"{self.method} ({MARK})" if self.kind == MARK else self.method


class Table(NamedTuple):
    """titles: of the columns behind the first two, in their order."""

    titles: list[str]
    rows: list[Row]
    caption: str

    @property
    def head(self) -> list[str]:
        return ["Trained on", "Method", *self.titles]


def cell(value: Estimate | float | None) -> str:
    """'0.133 [0.131, 0.135]'; without an interval the number alone, '' where there is none."""
    if value is None:
        return ""
    mean, low, high = value[:3] if isinstance(value, Estimate) else (value, math.nan, math.nan)
    if math.isnan(mean):
        return ""
    interval = "" if math.isnan(low) else f" [{low:.{DIGITS}f}, {high:.{DIGITS}f}]"
    return f"{mean:.{DIGITS}f}{interval}"


def lines(table: Table) -> list[list[str]]:
    """The texts of every row's cells."""
    return [[row.trained_on, row.label, *(cell(row.cells.get(title)) for title in table.titles)] for row in table.rows]


def markdown(table: Table) -> str:
    escape = lambda text: text.replace("|", "\\|")
    rows = [table.head, ["---", "---", *["---:"] * len(table.titles)], *lines(table)]
    shown = "\n".join(f"| {' | '.join(map(escape, row))} |" for row in rows)
    return f"{shown}\n\n{table.caption}\n"


SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def latex(table: Table) -> str:
    """A table for booktabs."""
    escape = lambda text: "".join(SPECIAL.get(c, c) for c in text)
    body = [" & ".join(map(escape, row)) + r" \\" for row in [table.head, *lines(table)]]
    body.insert(1, r"\midrule")
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape(table.caption)}}}",
            rf"\begin{{tabular}}{{ll{'r' * len(table.titles)}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def html_table(table: Table) -> str:
    """A <table> with its caption; a row's class is its kind."""
    row = lambda tag, texts: "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
    body = [f'<tr class="{item.kind}">{row("td", texts)}</tr>' for item, texts in zip(table.rows, lines(table), strict=True)]
    caption = f"<caption>{html.escape(table.caption)}</caption>"
    return "\n".join(["<table>", caption, f"<tr>{row('th', table.head)}</tr>", *body, "</table>"])
