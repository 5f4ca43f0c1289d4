"""The enhance command's work: captions of many prompts into a file, a line for each prompt that is finished."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from pathlib import Path

from tqdm import tqdm

from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.enhancers import causes
from mvgrpo_jax.enhancers.drafting import Enhanced, enhance_prompts
from mvgrpo_jax.enhancers.rewriters import Rewriter
from mvgrpo_jax.enhancers.watch import Watch
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.services import Failure, Service


def finished(path: Path) -> dict[str, list[dict[str, str]]]:
    """The prompts already in the file and their captions. A last line that was cut off, and prompts without captions, are
    removed from the file: they are not finished."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8-sig")
    complete = text[: text.rfind("\n") + 1]
    lines = [line for line in complete.split("\n") if line]
    try:
        items = [json.loads(line) for line in lines]
        entries = [(item["prompt"], [{k: c[k] for k in ("text", "operation")} for c in item["captions"]]) for item in items]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path} exists and is no caption file; choose another --out") from None
    if complete != text or not all(captions for _, captions in entries):
        with atomic(path) as part:
            part.write_text("".join(f"{line}\n" for line, (_, captions) in zip(lines, entries) if captions), encoding="utf-8")
    return {prompt: captions for prompt, captions in entries if captions}


@dataclasses.dataclass
class Outcome:
    """Of a run. refused: near repeats. short: prompts that were finished with fewer than k captions. left: prompts that ended
    unfinished. stopped: why the run ended early. reasons: what came in place of captions, counted."""

    refused: int = 0
    short: int = 0
    left: list[Enhanced] = dataclasses.field(default_factory=list)
    stopped: Failure | None = None
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def why(self) -> str:
        """What kept prompts from being finished, and what to do about it, in sentences without the last stop."""
        reasons = self.reasons
        if self.stopped is not None and self.stopped.reason == "refused":
            said = f"the service refuses ({self.stopped})"
            reasons = collections.Counter({"error: refused": 1})
        elif self.stopped is not None:
            said = f"{self.stopped}; since then: {causes.listed(reasons) or 'nothing, requests still wait'}"
        else:
            said = f"no answer was of use ({causes.listed(reasons)}), such as for {self.left[0].prompt[:200]!r}"
            said += f"; the last one: {self.left[0].detail}" if self.left[0].detail else ""
        advice = causes.remedy(reasons)
        return f"{said}. {advice}" if advice else said


async def write(prompts: list[str], options, rewriter: Rewriter, service: Service | None) -> Outcome:
    """Appends a line to options.out for every prompt that is not there and gets finished, until all have ended or the service
    has. options: those of the command. UserError when the file holds captions of other prompts."""
    done = finished(options.out)
    known = set(prompts)
    if strangers := [prompt for prompt in done if prompt not in known]:
        raise UserError(
            f"{options.out} holds captions of other prompts, such as {strangers[0]!r}; choose another --out or remove it"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    prompts = [prompt for prompt in prompts if prompt not in done]
    # Captions that the service wrote in an earlier run show what it can be asked to see whether it works.
    proofs = {prompt: captions[0]["operation"] for prompt, captions in list(done.items())[-2:]}
    out = Outcome()
    watch = Watch(rewriter, service, options.give_up_s if service else 0.0, proofs)
    in_flight = options.in_flight if service else 1
    stream = enhance_prompts(prompts, watch, options.k, options.seed, limit=options.similarity, in_flight=in_flight)
    try:
        with options.out.open("a", encoding="utf-8") as file, tqdm(total=len(prompts), unit="prompt") as bar:
            async for item in stream:
                bar.update()
                out.refused += item.refused
                if not item.finished:
                    out.left.append(item)
                    bar.set_postfix_str(f"{len(out.left)} unfinished: {causes.listed(item.reasons, 1)}")
                    continue
                out.short += len(item.captions) < options.k
                file.write(json.dumps({"prompt": item.prompt, "captions": item.captions}, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
    except Failure as failure:
        out.stopped = failure
    finally:
        await stream.aclose()
        if service is not None:
            await service.close()
    out.reasons = watch.reasons() if out.stopped else sum((item.reasons for item in out.left), collections.Counter())
    return out
