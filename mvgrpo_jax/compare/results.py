"""report.html, scores.csv, table.md, table.tex and before_after.png of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jinja2

from mvgrpo_jax.compare import grid, hacking, paper, runs, scores
from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.evaluation import table as tables
from mvgrpo_jax.run import curves, page

# Prefixes of the metrics that are drawn, a figure each, with what they are.
DRAWN = (
    (runs.EVALUATED, "Mean over the held-out prompts."),
    ("reward/", "Mean over an iteration's samples under their own prompt."),
    ("zero_std/", "Share of groups whose rewards are all equal."),
    ("grad_norm", "Before it is bounded."),
    ("kl", "From the reference."),
)

PAGE = jinja2.Template(
    page.HEAD
    + """{% if notes %}<h2>What cannot be compared</h2>
<ul>{% for note in notes %}<li>{{ note }}.</li>{% endfor %}</ul>
<p>{{ consequence }}</p>{% endif %}
{% if lines %}<h2>Evaluations</h2><table><tr><th>judge</th><th>run</th><th></th><th>first</th><th>best</th><th>last</th>
<th>last - first</th>{% if against %}<th>against {{ against }}</th>{% endif %}</tr>
{% for l in lines %}<tr><td>{{ l.judge }}</td><td>{{ l.run }}</td><td>{{ l.role }}</td>
<td>{{ '%.4f' % l.first }} ({{ l.first_at }})</td><td>{{ '%.4f' % l.best }} ({{ l.best_at }})</td>
<td>{{ '%.4f' % l.last }} ({{ l.last_at }})</td><td>{{ l.gain }}</td>
{% if against %}<td>{% if l.ahead is not none %}{{ l.ahead }} ({{ l.ahead_at }}){% endif %}</td>{% endif %}</tr>
{% endfor %}</table>
<p>Iterations in brackets; the best is the highest evaluation of this judge alone. Behind &plusmn; the standard error over
prompts, of differences prompt by prompt; it does not say how much another seed of training would change.</p>{% endif %}
{% if table %}<h2>In the paper's columns</h2>
<div class="paper">{{ table | safe }}</div>{% endif %}
{% if watched %}<h2>Judges that train and judges that watch</h2>
<p>Change since the first evaluation. Trained judges that rise while held-out ones (weight 0) fall are being exploited, not
satisfied.</p>
{% for text in sentences %}<p>{{ text }}.</p>{% endfor %}
{% with plots = watched %}"""
    + page.FIGURES
    + """{% endwith %}{% endif %}
<h2>Curves</h2>
"""
    + page.FIGURES
    + """{% if sheet %}<h2>Before and after</h2><p>{{ about_sheet }}</p>
<img class="wide" src="data:image/png;base64,{{ sheet }}" alt="before and after">{% endif %}
</html>""",
    autoescape=True,
)


class Comparison(NamedTuple):
    """page: where report.html is. lines: the table. notes: what cannot be compared. sentences: on trained and held-out
    judges."""

    page: Path
    lines: list[scores.Line]
    notes: list[str]
    sentences: list[str]


def write(workdirs: list[Path], out: Path) -> Comparison:
    """Compares runs, the others with the first. UserError: no such run, or one without evaluations."""
    found = runs.read(workdirs)
    rows = {run.name: run.rows for run in found}
    obstacles, changed = runs.obstacles(found), runs.changed_judges(found)
    notes = obstacles + [f"the judge {judge} has other settings: {why}" for judge, why in sorted(changed.items())]
    lines = [] if obstacles else scores.lines(found, set(changed))
    gained = [gains for run in found if (gains := hacking.gains(run))]
    sentences = [hacking.sentence(gains) for gains in gained]
    sheet = out / "before_after.png"
    about = None if obstacles else grid.write(found, sheet)
    if lines:
        scores.write(lines, out / "scores.csv")
    of_paper = None if obstacles or changed else paper.table(found)
    for name, form in (("table.md", tables.markdown), ("table.tex", tables.latex)) if of_paper else ():
        with atomic(out / name) as part:
            part.write_text(form(of_paper), encoding="utf-8")
    path = out / "report.html"
    shown = PAGE.render(
        title="mvgrpo_jax: " + ", ".join(rows),
        notes=notes,
        consequence="Only curves are shown." if obstacles else "Of these judges no difference between runs is shown.",
        lines=lines,
        table=tables.html_table(of_paper) if of_paper else "",
        against=found[0].name if len(found) > 1 else "",
        watched=[curves.figure(gains.run, f"In {gains.unit}.", hacking.plot(gains)) for gains in gained],
        sentences=sentences,
        plots=[
            curves.figure(name, text, curves.one(rows, name)) for prefix, text in DRAWN for name in curves.names(rows, prefix)
        ],
        sheet=page.embedded(sheet.read_bytes()) if about else None,
        about_sheet=about,
    )
    with atomic(path) as part:
        part.write_text(shown, encoding="utf-8")
    return Comparison(path, lines, notes, sentences)
