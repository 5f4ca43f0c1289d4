"""What other programs call our metrics: sent to trackers beside our names, so that curves lie on those of other runs.

zero_std_ratio, reward_std_mean and kl_loss are flow_grpo's (github.com/yifan123/flow_grpo), pg_clipfrac and its halves
verl-omni's; those of judges are in the form that Flow-Factory has.
"""

from __future__ import annotations

# Ours -> theirs. NAME stands for a judge.
ALIASES = {
    "eval/NAME": "eval/reward_NAME_mean",
    "eval_std/NAME": "eval/reward_NAME_std",
    "reward/NAME": "train/reward_NAME_mean",
    "reward_std/NAME": "train/reward_NAME_std_mean",
    "clip/low": "pg_clipfrac_lower",
    "clip/high": "pg_clipfrac_higher",
    "kl": "kl_loss",
}
# Of the one judge that trains; of several no program means the same.
OF_THE_ONE = {"zero_std/NAME": "zero_std_ratio", "reward_std/NAME": "reward_std_mean"}
CLIPPED = "pg_clipfrac"  # clip/low + clip/high


def aliases(values: dict[str, float]) -> dict[str, float]:
    """The metrics that other programs have, by their names."""
    trained = [name.removeprefix("zero_std/") for name in values if name.startswith("zero_std/")]
    out = {}
    for name, value in values.items():
        head, slash, judge = name.partition("/")
        pattern = f"{head}/NAME"
        if name in ALIASES:
            out[ALIASES[name]] = value
        elif slash and pattern in ALIASES:
            out[ALIASES[pattern].replace("NAME", judge)] = value
        if [judge] == trained and pattern in OF_THE_ONE:
            out[OF_THE_ONE[pattern]] = value
    if {"clip/low", "clip/high"} <= values.keys():
        out[CLIPPED] = values["clip/low"] + values["clip/high"]
    return out
