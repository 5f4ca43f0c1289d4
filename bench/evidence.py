"""Do further views help, and how much should the prompt weigh? `python bench/evidence.py --out runs/evidence`.

Every arm draws as many pictures an iteration and is trained for as many iterations. An arm with captions evaluates the model
more often, so its weights are looked at twice: when it has spent what the single view spends in all (equal evaluations) and at
the end (equal pictures). Each time the policy paints held-out prompts that no setting was chosen on, 256 short ones, and
128 long ones that state every attribute. Three judges look: the exact one, clip-nano, and quality, which no caption states.

A study is what trains: `exact` the exact judge, `learned` nano-hps, a preference judge; `captions` has captions of unlike
worth, `lag` rollouts that are drawn before the update. A run of an arm and a seed is a line of docs/study/evidence.jsonl; what
is there, under this study or another, is not made again, what was interrupted goes on. --report makes the tables of
docs/results.md of it; differences are paired by seeds, which share prompts and noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.study import OFFLINE, captions, plan, run, words  # noqa: E402  (the path comes first)
from bench.study_report import mean_error  # noqa: E402
from mvgrpo_jax.nano.pretrain.preference import QUALITY  # noqa: E402

FACTS = ROOT / "docs" / "study" / "evidence.jsonl"
PAGE = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"
ITERATIONS = 60
SHORT, LONG = 256, 128
FIRST = 192  # held-out prompts that settings were chosen on
SINGLE = "single view"
WENT = ("nano-hps", "truth", "gap")


def balanced(weight: float) -> dict[str, object]:
    return {"views.aggregate": "balanced", "views.prompt_weight": weight}


WEIGHTS = {
    SINGLE: {"views.count": 0},
    "prompt weight 1/11": {},
    "prompt weight 1/4": balanced(0.25),
    "prompt weight 1/2": balanced(0.5),
    "prompt weight 3/4": balanced(0.75),
}
HPS = {"rewards.scene": 0.0, "rewards.clip": 1.0, "judges.clip.folder": "nano-hps", "eval.judge": "clip"}
HALF = balanced(0.5) | OFFLINE
KEPT = ("reward/scene", "reward/clip", "grad_norm", "time/iteration")  # of every iteration
OFF_POLICY = ("ratio/min", "ratio/max", "clip/low", "clip/high")  # where a study lags
# Study -> arm -> overrides of configs/flux_nano.py. The first arm of a study is what the others are compared with.
STUDIES: dict[str, dict[str, dict[str, object]]] = {
    "exact": WEIGHTS,
    "learned": {arm: flags | HPS for arm, flags in WEIGHTS.items() if arm not in ("prompt weight 1/4", "prompt weight 3/4")},
    "captions": {
        "right": HALF,
        "a fifth of the attributes wrong": HALF | {"views.file": "{wrong}"},
        "of another prompt": HALF | {"views.file": "{unrelated}"},
    },
    "lag": {"none": {}, "one step": {"train.async_steps": 1}},
}
JUDGES = ("--judge", "scene", "--judge", "clip", "--judge", "quality=mvgrpo_jax.nano.world.quality:judge")
JUDGES += ("--option", "quality.kind=function")
WATCHED = {"learned": ("--judge", "hps=nano-hps", "--option", "hps.kind=clip")}  # further judges of a study's exams


def long_prompts(count: int) -> list[str]:
    """Captions of scenes of one thing that leave nothing open; each names a pair that pretraining never saw."""
    from mvgrpo_jax.nano.world import captions as grammar
    from mvgrpo_jax.nano.world import scene

    rng, found = np.random.default_rng(11), {}
    while len(found) < count:
        drawn = scene.sample(rng, held_out=True)
        found[grammar.complete(dataclasses.replace(drawn, things=drawn.things[:1]))] = None
    return list(found)


def wrong(caption: str, rng: np.random.Generator, share: float) -> str:
    """The caption with each stated attribute replaced by another value with probability `share`."""
    from mvgrpo_jax.nano.world import captions as grammar
    from mvgrpo_jax.nano.world.scene import BACKGROUNDS, MAX_THINGS
    from mvgrpo_jax.nano.world.truth import VALUES

    def other(value, values):
        return rng.choice([v for v in values if v != value]) if value is not None and rng.random() < share else value

    read = grammar.read(caption)
    things = tuple(dataclasses.replace(t, **{k: str(other(v, VALUES[k])) for k, v in t.stated().items()}) for t in read.things)
    count = other(read.count, range(1, MAX_THINGS + 1))
    background = other(read.background, list(BACKGROUNDS))
    return grammar.write(
        dataclasses.replace(
            read,
            things=things,
            background=None if background is None else str(background),
            count=None if count is None else int(count),
        )
    )


def files(out: Path) -> dict[str, str]:
    """Prompts to paint, and captions of the training prompts: right ones, ones with faults, and those of other prompts."""
    from mvgrpo_jax.prompts import load_prompts

    captions(out)
    prompts = out / "held_out.jsonl"
    if not prompts.exists():
        short = load_prompts("flux-nano-one", FIRST + SHORT, held_out=True)[FIRST:]
        lines = [{"prompt": p, "style": "short"} for p in short] + [{"prompt": p, "style": "long"} for p in long_prompts(LONG)]
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    faulty, rng = out / "wrong.jsonl", np.random.default_rng(13)
    if not faulty.exists():
        lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
        lines = [line | {"captions": [c | {"text": wrong(c["text"], rng, 0.2)} for c in line["captions"]]} for line in lines]
        faulty.write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = {"captions": "captions.jsonl", "unrelated": "unrelated.jsonl", "wrong": "wrong.jsonl", "prompts": "held_out.jsonl"}
    return {name: str(out / file) for name, file in names.items()}


def exam(study: str, where: list[str], out: Path, prompts: str) -> dict[str, dict[str, float]]:
    """Style -> judge -> mean score."""
    if not (out / "summary.json").exists():
        judges = [*JUDGES, *WATCHED.get(study, ())]
        command = [sys.executable, "-m", "mvgrpo_jax.evaluate", *where, "--prompts", prompts, "--per-style", *judges]
        run([*command, "--steps", "8", "--seed", "1", "--out", str(out)])
    found = json.loads((out / "summary.json").read_text())
    shutil.rmtree(out / "pictures", ignore_errors=True)
    return {style: {name: judged["mean"] for name, judged in part["judges"].items()} for style, part in found["styles"].items()}


def before(study: str, out: Path, prompts: str) -> dict:
    """What the policy is before training, and the deviations over prompts of what a learned judge and the truth say of it."""
    where = out / ("before" if study not in WATCHED else f"before_{study}")
    found = exam(study, ["--pipeline", "flux-nano"], where, prompts)
    lines = [json.loads(line) for line in (where / "scores.jsonl").read_text().splitlines()]
    facts = {"study": "before", "arm": study if study in WATCHED else "before", "seed": 0, "equal pictures": found}
    if study in WATCHED:
        of = {style: [line["scores"] for line in lines if line["style"] == style] for style in found}
        facts["deviation"] = {
            style: {"hps": float(np.std([s["hps"] for s in rows])), "truth": float(np.std([truth(s) for s in rows]))}
            for style, rows in of.items()
        }
    return facts


def truth(scores: dict[str, float]) -> float:
    """What nano-hps was trained to rank by."""
    return scores["scene"] + QUALITY * scores["quality"]


def one(study: str, arm: str, seed: int, out: Path, places: dict[str, str]) -> dict:
    """Trains an arm with a seed, unless that is done, and examines it."""
    own = {k: v.format(**places) if isinstance(v, str) else v for k, v in STUDIES[study][arm].items()}
    flags = {"seed": seed, "log.images_every": 1000, **own}
    # Where it has spent as many evaluations as the single view spends in ITERATIONS.
    spent = plan({"views.count": 0}, 10**9, ITERATIONS)[1]
    cut = min(plan(flags, spent)[0], ITERATIONS)
    workdir = out / f"{study}_{arm}_{seed}".replace(" ", "_").replace("/", "-")
    if not (workdir / "report.html").exists():
        given = flags | {"iterations": ITERATIONS, "eval.every": ITERATIONS, "checkpoint.every": cut, "checkpoint.keep": 9}
        main = [sys.executable, "-m", "mvgrpo_jax.main", "--config=configs/flux_nano.py", f"--workdir={workdir}"]
        run([*main, *words(given), "--compilation_cache=.cache/jax"])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    facts = {"study": study, "arm": arm, "seed": seed, "iterations": ITERATIONS, "cut": cut}
    for name in (*KEPT, *(OFF_POLICY if study == "lag" else ())):
        facts[name] = [round(r[name], 5) for r in rows if name in r]
    look = lambda name, *step: exam(study, ["--workdir", str(workdir), *step], workdir / name, places["prompts"])
    end = look("end")
    early = end if cut == ITERATIONS else look("cut", "--step", str(cut))
    shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    return facts | {"equal evaluations": early, "equal pictures": end}


def same(rows: list[dict], study: str, arm: str, seed: int) -> dict | None:
    """The facts of this run where another study had it."""
    flags = STUDIES[study][arm]
    known = (r for r in rows if r["seed"] == seed and STUDIES.get(r["study"], {}).get(r["arm"]) == flags)
    found = next(known, None)
    return found and found | {"study": study, "arm": arm, "of": f"{found['study']}, {found['arm']}"}


def table(rows: list[dict], study: str, moment: str) -> list[str]:
    """Means over seeds, and the differences to the study's first arm, paired by seeds."""
    arms = [arm for arm in STUDIES[study] if any(r["arm"] == arm for r in rows)]
    columns = [(style, name) for style in ("short", "long") for name in ("scene", "clip", "quality")]
    heads = [f"{name}, {style} prompts" for style, name in columns]
    lines = ["| arm | seeds | " + " | ".join(heads) + " | difference in scene, short | long |", "|---" * (len(heads) + 4) + "|"]
    base = {r["seed"]: r for r in rows if arms and r["arm"] == arms[0]}
    for arm in arms:
        found = [r for r in rows if r["arm"] == arm]
        cells = [mean_error([r[moment][style][name] for r in found]) for style, name in columns]
        pairs = [(r, base[r["seed"]]) for r in found if r["seed"] in base and arm != arms[0]]
        cells += [mean_error([a[moment][s]["scene"] - b[moment][s]["scene"] for a, b in pairs]) for s in ("short", "long")]
        lines.append(f"| {arm} | {len(found)} | " + " | ".join(cells) + " |")
    return lines


def hacking(rows: list[dict], study: str, moment: str) -> list[str]:
    """How far the judge that trains and the truth that it was made from went apart: gains in deviations over prompts before
    training."""
    lines = ["| arm | seeds | " + " | ".join(f"{what}, {style} prompts" for style in ("short", "long") for what in WENT) + " |"]
    lines.append("|---" * (2 + 2 * len(WENT)) + "|")
    (start,) = (r for r in rows if (r["study"], r["arm"]) == ("before", study))
    for arm in STUDIES[study]:
        found = [r[moment] for r in rows if (r["study"], r["arm"]) == (study, arm)]
        cells = []
        for style in ("short", "long"):
            was, scale = start["equal pictures"][style], start["deviation"][style]
            judged = [(r[style]["hps"] - was["hps"]) / scale["hps"] for r in found]
            true = [(truth(r[style]) - truth(was)) / scale["truth"] for r in found]
            cells += [mean_error(judged), mean_error(true), mean_error([a - b for a, b in zip(judged, true, strict=True)])]
        if found:
            lines.append(f"| {arm} | {len(found)} | " + " | ".join(cells) + " |")
    return lines


def report(rows: list[dict]) -> list[str]:
    """Every study's tables, after what the policy was before training."""
    titles = {
        "exact": "The exact judge trains",
        "learned": "nano-hps trains",
        "captions": "Captions of unlike worth",
        "lag": "Rollouts drawn before the update (the exact judge, prompt weight 1/11)",
    }
    lines = []
    if found := [r for r in rows if r["study"] == "before"]:
        of = found[0]["equal pictures"]
        lines += ["Before training: " + ", ".join(f"{n} {of[s][n]:.3f} ({s})" for s in of for n in of[s]) + ".", ""]
    for study, title in titles.items():
        found = [r for r in rows if r["study"] == study]
        for moment in ("equal pictures", "equal evaluations") if found else ():
            lines += [f"{title}, at {moment}:", "", *table(found, study, moment), ""]
            if study in WATCHED:
                lines += ["Gains in deviations over prompts:", "", *hacking(rows, study, moment), ""]
    return lines


def place(lines: list[str]) -> None:
    """Puts the tables between their marks in docs/results.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + "\n".join([BEGIN, *lines]).rstrip() + f"\n{END}" + after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--study", choices=list(STUDIES), action="append", help="default: all, one after the other")
    parser.add_argument("--arm", action="append", help="only this arm of a study (may be repeated)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", action="store_true", help="the tables of what is done; trains nothing")
    options = parser.parse_args()
    known = {arm for study in options.study or STUDIES for arm in STUDIES[study]}
    if unknown := set(options.arm or ()) - known:
        sys.exit(f"no arm {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    FACTS.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in FACTS.read_text().splitlines()] if FACTS.exists() else []
    if not options.report:
        places = files(options.out)

        def add(facts: dict) -> None:
            rows.append(facts)
            with FACTS.open("a") as file:
                file.write(json.dumps(facts) + "\n")

        for study in options.study or STUDIES:
            start = study if study in WATCHED else "before"
            if not any((r["study"], r["arm"]) == ("before", start) for r in rows):
                add(before(study, options.out, places["prompts"]))
            for seed in range(options.seeds):  # every arm once, then again: what is there early can be compared
                for arm in options.arm or STUDIES[study]:
                    if not any((r["study"], r["arm"], r["seed"]) == (study, arm, seed) for r in rows):
                        add(same(rows, study, arm, seed) or one(study, arm, seed, options.out, places))
    place(report(rows))


if __name__ == "__main__":
    main()
