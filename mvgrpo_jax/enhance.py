"""python -m mvgrpo_jax.enhance --prompts FILE --out FILE --k 12: captions for every prompt, before training.

Works on the embedded world's prompts by its grammar. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import collections
import json
from pathlib import Path

from tqdm import tqdm

from mvgrpo_jax import data
from mvgrpo_jax.enhancers.offline import WorldRewriter, enhance_prompts
from mvgrpo_jax.errors import UserError, reports_errors


def finished(path: Path) -> list[str]:
    """The prompts already in the file; a last line that was cut off is removed."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        path.write_text("".join(lines), encoding="utf-8")
    try:
        return [json.loads(line)["prompt"] for line in lines]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path} exists and is no caption file; choose another --out") from None


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mvgrpo_jax.enhance", description=__doc__)
    parser.add_argument("--prompts", default="flux-nano", help="a prompt a line, or flux-nano (the embedded prompts)")
    parser.add_argument("--count", type=int, default=0, help="how many prompts (0: all of the file, 512 embedded)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--k", type=int, default=12, help="captions a prompt")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.k < 1:
        raise UserError(f"--k must be at least 1, got {options.k}")
    prompts = data.prompts(options.prompts, options.count, held_out=False)
    done = finished(options.out)
    if done != prompts[: len(done)]:
        raise UserError(f"{options.out} holds captions of other prompts; choose another --out or remove it")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    used, refusals, short = collections.Counter(), 0, 0
    with options.out.open("a", encoding="utf-8") as file:
        stream = enhance_prompts(prompts, WorldRewriter(), options.k, options.seed)
        for number, (prompt, found, refused) in enumerate(tqdm(stream, total=len(prompts), unit="prompt")):
            used.update(c["operation"] for c in found)
            refusals += refused
            short += len(found) < options.k
            if number >= len(done):
                file.write(json.dumps({"prompt": prompt, "captions": found}) + "\n")
                file.flush()
    operations = ", ".join(f"{n} {name}" for name, n in sorted(used.items()))
    print(f"{len(prompts)} prompts, {sum(used.values())} captions ({operations}); {refusals} repeats refused")
    if short:
        print(f"{short} prompts say too little for {options.k} different captions; their missing views will be masked")


if __name__ == "__main__":
    main()
