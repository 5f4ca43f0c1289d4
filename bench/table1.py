"""The paper's Table 1 in miniature, on flux-nano with its own judges: `python bench/table1.py --out runs/table1`.

The commands of a pod run, one after the other: every method is trained (mvgrpo_jax.main), then its pipeline paints held-out
prompts that no setting was chosen on (mvgrpo_jax.evaluate), beside the untrained one from the same noise. Methods draw equally
many pictures. Single reward: the exact judge; multi: with clip-nano. What is finished is not repeated, what was interrupted
goes on. The table stands in docs/study/table1.md, its numbers in table1.json; --report makes it of what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.study import captions, run, words  # noqa: E402  (the path comes first)

FACTS = ROOT / "docs" / "study" / "table1.json"
REWARDS = {"scene": {}, "scene + clip": {"rewards.clip": 1.0}}  # trained on -> overrides
METHODS = {
    "Flow-GRPO": {"algorithm.name": "flow_grpo"},
    "DanceGRPO": {"algorithm.name": "dancegrpo"},
    "TempFlow-GRPO": {"algorithm.name": "tempflow_grpo"},
    "DiffusionNFT": {"algorithm.name": "diffusion_nft"},
    "MV-GRPO (LLM)": {"views.enhancer": "offline", "views.file": "{captions}"},
    "MV-GRPO (VLM)": {},
}
PROMPTS = ["--prompts", "flux-nano-one", "--first", "192", "--count", "256"]
JUDGES = ["--judge", "scene", "--judge", "clip"]


def trained(method: str, rewards: str, out: Path, iterations: int) -> Path:
    """The pipeline of a run of this method; it is trained unless that is done."""
    workdir = out / f"{method} {rewards}".replace(" ", "_").replace("(", "").replace(")", "")
    flags = {"iterations": iterations, "log.images_every": 1000, **METHODS[method], **REWARDS[rewards]}
    flags = {
        key: value.format(captions=out / "captions.jsonl") if isinstance(value, str) else value for key, value in flags.items()
    }
    if not (workdir / "report.html").exists():
        command = [sys.executable, "-m", "mvgrpo_jax.main", "--config=configs/flux_nano.py", f"--workdir={workdir}"]
        run([*command, *words(flags), "--compilation_cache=.cache/jax"])
    return workdir / "pipeline"


def evaluated(pipeline: str, out: Path, *more: str) -> dict:
    """The summary of an evaluation."""
    command = [sys.executable, "-m", "mvgrpo_jax.evaluate", "--pipeline", pipeline, *PROMPTS, *JUDGES, "--steps", "8"]
    run([*command, "--seed", "1", "--out", str(out), *more])
    return json.loads((out / "summary.json").read_text())


def report(found: list[dict]) -> str:
    """The table as Markdown. found: of each row its first cells and its evaluation's summary."""
    from mvgrpo_jax.evaluation.intervals import Estimate
    from mvgrpo_jax.evaluation.table import Row, Table, markdown

    titles = {"scene": "exact judge", "clip": "clip-nano", "brightness": "brightness", "saturation": "saturation"}

    def row(facts: dict) -> Row:
        measured = facts["summary"]["judges"] | facts["summary"]["collapse"]
        cells = {title: Estimate(*(measured[name][k] for k in Estimate._fields)) for name, title in titles.items()}
        won = facts["summary"].get("against", {}).get("judges", {}).get("scene", {}).get("win_rate", {}).get("mean")
        return Row(facts["trained_on"], facts["method"], cells | ({"pairs won": won} if won is not None else {}))

    caption = (
        "256 prompts of flux-nano-one after the first 192, seed 1, 8 steps; one run of each method. Mean over prompts with its "
        "95 % interval (bootstrap over prompts), which says nothing of other training seeds. Pairs won: of pictures from the "
        "same noise, by the exact judge, against the untrained pipeline."
    )
    return markdown(Table([*titles.values(), "pairs won"], [row(facts) for facts in found], caption))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/table1"))
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--report", action="store_true", help="the table of what is done; trains nothing")
    options = parser.parse_args()
    found = json.loads(FACTS.read_text()) if FACTS.exists() else []
    done = {(facts["trained_on"], facts["method"]) for facts in found}
    rows = [("-", "flux-nano"), *((rewards, method) for rewards in REWARDS for method in METHODS)]
    if not options.report:
        captions(options.out)
        base = options.out / "base"
        for on, method in rows:
            if (on, method) in done:
                continue
            if on == "-":
                summary = evaluated("flux-nano", base)
            else:
                pipeline = trained(method, on, options.out, options.iterations)
                summary = evaluated(str(pipeline), pipeline.parent / "test", "--against", str(base), "--label", method)
            found.append({"trained_on": on, "method": method, "iterations": options.iterations, "summary": summary})
            FACTS.write_text(json.dumps(found, indent=1) + "\n")
    found.sort(key=lambda facts: rows.index((facts["trained_on"], facts["method"])))
    FACTS.with_suffix(".md").write_text(report(found))
    print(report(found))


if __name__ == "__main__":
    main()
