"""report.html: the curves of one run or several, and pictures before and after on the same prompts and noise."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import numpy as np

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.run import curves, metrics, page, pictures, timeline

PAGE = jinja2.Template(
    page.HEAD
    + """<table><tr><th>held-out score</th>{% for r in runs %}<th colspan="3">{{ r.name }}</th>{% endfor %}</tr>
<tr><th></th>{% for r in runs %}<th>before</th><th>after</th><th>change</th>{% endfor %}</tr>
{% for judge in judges %}<tr><td>{{ judge }}</td>{% for r in runs %}{% set b, a = r.ends.get(judge, (None, None)) %}
<td>{{ '%.4f' % b if b is not none else '' }}</td><td>{{ '%.4f' % a if a is not none else '' }}</td>
<td>{{ '%+.1f %%' % (100 * (a - b) / b) if b else '' }}</td>{% endfor %}</tr>{% endfor %}</table>
<p>A learned reward that rises while the exact score (<code>scene</code>) does not is being exploited, not satisfied.</p>
"""
    + page.FIGURES
    + """{% for r in runs %}{% if r.sheet %}<h2>{{ r.name }}: before and after</h2>
<p>The same held-out prompts and the same noise.</p>
<img class="wide" src="data:image/png;base64,{{ r.sheet }}" alt="before and after">{% endif %}{% endfor %}
{% for r in runs %}{% if r.timeline %}<h2>{{ r.name }}: who works when</h2>
<p>Iteration {{ r.timeline.iteration }}, whose devices had nothing to do for {{ r.timeline.idle }} of it.</p>
<img class="wide" src="data:image/png;base64,{{ r.timeline.data }}" alt="timeline of an iteration">{% endif %}{% endfor %}
{% for r in runs %}{% if r.captions %}<h2>{{ r.name }}: captions of iteration {{ r.captions.iteration }}</h2>
<table class="text"><tr><th>prompt</th><th>caption</th><th>mean reward of the group</th></tr>
{% for c in r.captions.captions %}<tr><td>{{ c.prompt }}</td><td>{{ c.caption or '(missing)' }}</td>
<td>{% for n, v in c.reward.items() %}{{ n }} {{ '%.4f' % v if v is not none else '-' }} {% endfor %}</td></tr>{% endfor %}
</table>{% endif %}{% endfor %}
{% for r in runs %}<h2>{{ r.name }}: config</h2><pre>{{ r.config }}</pre>{% endfor %}</html>""",
    autoescape=True,
)


def before_and_after(workdir: Path, count: int = 16) -> Path | None:
    """Writes before_after.png: pairs of the first and the last evaluation's pictures."""
    stored = sorted((workdir / "eval").glob("*.npy"))
    if len(stored) < 2:
        return None
    before, after = (pictures.load_array(p)[:count] / 255.0 for p in (stored[0], stored[-1]))
    prompts = json.loads((workdir / "eval" / "prompts.json").read_text())[: len(before)]
    gap = np.ones((before.shape[1], 2, 3))
    pairs = [(np.concatenate([b, gap, a], 1), p) for b, a, p in zip(before, after, prompts)]
    path = workdir / "before_after.png"
    title = f"left: before, right: after {int(stored[-1].stem)} iterations"
    pictures.sheet([pairs[i : i + 4] for i in range(0, len(pairs), 4)], path, title=title, cell=220)
    return path


def last_captions(workdir: Path, count: int = 60) -> dict | None:
    """The captions of the newest groups that were drawn: `count` of the first branch at most."""
    stored = sorted((workdir / "samples").glob("*.json"))
    if not stored:
        return None
    item = json.loads(stored[-1].read_text())
    first = [c for c in item["captions"] if c["branch"] == 0 and c["view"] > 0]
    return item | {"captions": sorted(first, key=lambda c: c["prompt"])[:count]} if first else None


def last_timeline(workdir: Path, rows: list[dict]) -> dict | None:
    """The newest iteration whose timeline was kept, and that has nothing of an evaluation in it if there is one."""
    idle = {row["iteration"]: row["time/idle"] for row in rows if row.get("time/idle") is not None}
    kept = timeline.read(workdir)
    found = ([row for row in kept if row["iteration"] in idle and row["iteration"]] or kept or [None])[-1]
    if found is None:
        return None
    share = idle.get(found["iteration"])
    return {
        "iteration": found["iteration"],
        "idle": "an unknown share" if share is None else f"{100 * share:.0f} %",
        "data": page.embedded(timeline.draw(found)),
    }


def write(workdirs: list[Path], out: Path | None = None) -> Path:
    """Writes report.html into the first workdir (or to `out`) and returns its path. UserError without metrics."""
    runs = {name: metrics.read(w) for name, w in zip(page.names(workdirs), workdirs)}
    items = []
    for (name, rows), workdir in zip(runs.items(), workdirs):
        ends = {}
        for key in sorted({k for r in rows for k in r if k.startswith("eval/")}):
            if values := curves.curve(rows, key)[1]:
                ends[key.removeprefix("eval/")] = (values[0], values[-1])
        sheet = before_and_after(workdir)
        config = workdir / "config.json"
        items.append(
            {
                "name": name,
                "ends": ends,
                "sheet": page.embedded(sheet.read_bytes()) if sheet else None,
                "config": config.read_text() if config.exists() else "",
                "captions": last_captions(workdir),
                "timeline": last_timeline(workdir, rows),
            }
        )
    judges = sorted({j for item in items for j in item["ends"]})
    path = out or workdirs[0] / "report.html"
    with atomic(path) as part:
        part.write_text(
            PAGE.render(title="mvgrpo_jax: " + ", ".join(runs), runs=items, judges=judges, plots=curves.figures(runs))
        )
    return path


def changes(workdir: Path) -> list[str]:
    """A line for each evaluation of a run: its first and its last value."""
    rows, lines = metrics.read(workdir), []
    for name in sorted({k for r in rows for k in r if k.startswith("eval/")}):
        if not (values := curves.curve(rows, name)[1]):
            continue
        first, last = values[0], values[-1]
        change = f" ({100 * (last - first) / abs(first):+.1f} %)" if first else ""
        lines.append(f"{workdir.name}: {name} {first:.4f} -> {last:.4f}{change}")
    return lines
