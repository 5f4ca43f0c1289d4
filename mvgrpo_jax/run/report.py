"""report.html: the curves of one run or several, and pictures before and after on the same prompts and noise."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import jinja2
import numpy as np

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.run import metrics, pictures

# Title, what it means, the metrics drawn.
PLOTS = (
    ("Held-out evaluation", "Fixed prompts and noise, ODE sampling.", "eval/"),
    ("Reward in training", "Mean over the samples under their own prompt.", "reward/"),
    ("Reward under all views", "Mean over prompt and captions.", "reward_views/"),
    ("Scores that a judge could not give", "Share of those that it was asked for; they train nothing.", "reward_invalid/"),
    ("Advantage", "Mean absolute value.", "advantage/"),
    ("Groups without a signal", "Share of groups whose rewards are all equal.", "zero_std/"),
    ("Probability ratio", "Of the last update of an iteration.", "ratio/"),
    ("Clipped ratios", "Share below and above the clip range.", "clip/"),
    ("Drift", "Largest difference of the update's log-probability from the rollout's, prompt view.", "drift/"),
    ("Gradient norm", "Before it is bounded.", "grad_norm"),
    ("Captions", "Asked for, missing, cut, asked for again; seconds of waiting that sampling did not hide.", "enhancer/"),
    ("Seconds", "Time of each stage.", "time/"),
)

PAGE = jinja2.Template(
    """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:.4rem;vertical-align:top;width:540px}
figure img{width:100%}figcaption{color:#555}.text td{text-align:left}.wide{max-width:100%}
pre{background:#f6f6f6;padding:1rem;overflow:auto}</style>
<h1>{{ title }}</h1>
<table><tr><th>held-out score</th>{% for r in runs %}<th colspan="3">{{ r.name }}</th>{% endfor %}</tr>
<tr><th></th>{% for r in runs %}<th>before</th><th>after</th><th>change</th>{% endfor %}</tr>
{% for judge in judges %}<tr><td>{{ judge }}</td>{% for r in runs %}{% set b, a = r.ends.get(judge, (None, None)) %}
<td>{{ '%.4f' % b if b is not none else '' }}</td><td>{{ '%.4f' % a if a is not none else '' }}</td>
<td>{{ '%+.1f %%' % (100 * (a - b) / b) if b else '' }}</td>{% endfor %}</tr>{% endfor %}</table>
<p>A learned reward that rises while the exact score (<code>scene</code>) does not is being exploited, not satisfied.</p>
{% for p in plots %}<figure><img src="data:image/png;base64,{{ p.data }}" alt="{{ p.title }}"><figcaption><b>{{ p.title }}.</b>
{{ p.text }}</figcaption></figure>{% endfor %}
{% for r in runs %}{% if r.sheet %}<h2>{{ r.name }}: before and after</h2><p>The same held-out prompts and the same noise.</p>
<img class="wide" src="data:image/png;base64,{{ r.sheet }}" alt="before and after">{% endif %}{% endfor %}
{% for r in runs %}{% if r.captions %}<h2>{{ r.name }}: captions of iteration {{ r.captions.iteration }}</h2>
<table class="text"><tr><th>prompt</th><th>caption</th><th>mean reward of the group</th></tr>
{% for c in r.captions.captions %}<tr><td>{{ c.prompt }}</td><td>{{ c.caption or '(missing)' }}</td>
<td>{% for n, v in c.reward.items() %}{{ n }} {{ '%.4f' % v if v is not none else '-' }} {% endfor %}</td></tr>{% endfor %}
</table>{% endif %}{% endfor %}
{% for r in runs %}<h2>{{ r.name }}: config</h2><pre>{{ r.config }}</pre>{% endfor %}</html>""",
    autoescape=True,
)


def curve(rows: list[dict], name: str) -> tuple[list[int], list[float]]:
    points = [(r["iteration"], r[name]) for r in rows if r.get(name) is not None]
    return [p[0] for p in points], [p[1] for p in points]


def plot(runs: dict[str, list[dict]], prefix: str) -> bytes | None:
    """One PNG with every metric that starts with `prefix`; None when there is none."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted({k for rows in runs.values() for r in rows for k in r if k.startswith(prefix)})
    if not names:
        return None
    figure, axes = plt.subplots(figsize=(7.2, 3.6), dpi=110)
    for number, (label, rows) in enumerate(runs.items()):
        for color, name in enumerate(names):
            x, y = curve(rows, name)
            text = f"{label}: {name}" if len(runs) > 1 else name
            style = {"linestyle": ("-", "--", ":", "-.")[number % 4], "color": f"C{color % 10}", "label": text}
            axes.plot(x, y, marker="o" if len(x) < 20 else None, markersize=3, **style)
    axes.set_xlabel("iteration")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()


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


def write(workdirs: list[Path], out: Path | None = None) -> Path:
    """Writes report.html into the first workdir (or to `out`) and returns its path. UserError without metrics."""
    runs = {w.name: metrics.read(w) for w in workdirs}
    plots = []
    for title, text, prefix in PLOTS:
        image = plot(runs, prefix)
        if image:
            plots.append({"title": title, "text": text, "data": base64.b64encode(image).decode()})
    items = []
    for workdir in workdirs:
        rows = runs[workdir.name]
        ends = {}
        for name in sorted({k for r in rows for k in r if k.startswith("eval/")}):
            if values := curve(rows, name)[1]:
                ends[name.removeprefix("eval/")] = (values[0], values[-1])
        sheet = before_and_after(workdir)
        config = workdir / "config.json"
        items.append(
            {
                "name": workdir.name,
                "ends": ends,
                "sheet": base64.b64encode(sheet.read_bytes()).decode() if sheet else None,
                "config": config.read_text() if config.exists() else "",
                "captions": last_captions(workdir),
            }
        )
    judges = sorted({j for item in items for j in item["ends"]})
    path = out or workdirs[0] / "report.html"
    with atomic(path) as part:
        part.write_text(PAGE.render(title="mvgrpo_jax: " + ", ".join(runs), runs=items, judges=judges, plots=plots))
    return path


def changes(workdir: Path) -> list[str]:
    """A line for each evaluation of a run: its first and its last value."""
    rows, lines = metrics.read(workdir), []
    for name in sorted({k for r in rows for k in r if k.startswith("eval/")}):
        if not (values := curve(rows, name)[1]):
            continue
        first, last = values[0], values[-1]
        change = f" ({100 * (last - first) / abs(first):+.1f} %)" if first else ""
        lines.append(f"{workdir.name}: {name} {first:.4f} -> {last:.4f}{change}")
    return lines
