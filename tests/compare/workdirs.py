"""Workdirs as runs leave them, with numbers that a test knows."""

import json

import numpy as np

PROMPTS = ["a red circle", "a blue cross", "two green squares"]
CONFIG = {
    "eval": {"steps": 16, "solver": "euler", "judge": "scene"},
    "image": {"height": 0, "width": 0},
    "prompts": {"eval": "nano", "eval_count": 3},
    "rewards": {"clip": 1.0, "scene": 0.0},
    "judges": {"clip": {"folder": "clip-nano", "chunk": 16}},
}


def write(folder, scores, *, config=CONFIG, prompts=PROMPTS, kept=True, shade=None):
    """scores: {iteration: {judge: [N]}} of evaluations; there is a line of metrics for each iteration up to the last one.
    kept: with the scores prompt by prompt. shade: {iteration: value of every pixel}, pictures are kept."""
    (folder / "eval").mkdir(parents=True)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    rows = [{"iteration": i, "reward/clip": i / 10, "grad_norm": 1.0} for i in range(max(scores, default=1) + 1)]
    for iteration, judges in scores.items():
        for judge, values in judges.items():
            rows[iteration] |= {f"eval/{judge}": float(np.mean(values)), f"eval_std/{judge}": float(np.std(values))}
        item = {"iteration": iteration, "prompts": prompts, "scores": judges}
        if kept:
            (folder / "eval" / f"{iteration:06d}.json").write_text(json.dumps(item))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if shade:
        (folder / "eval" / "prompts.json").write_text(json.dumps(prompts))
        for iteration, value in shade.items():
            images = np.full((len(prompts), 8, 12, 3), value, np.uint8)
            images[:, 0, 0] = np.arange(len(prompts))[:, None]
            np.save(folder / "eval" / f"{iteration:06d}.npy", images)
    return folder


def with_(**changes):
    """CONFIG with other sections, or other keys in them."""
    return {**CONFIG, **{name: CONFIG.get(name, {}) | section for name, section in changes.items()}}
