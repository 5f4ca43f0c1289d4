"""How many GPUs must write captions so that trainers do not wait: python launch/sidecars/sizing.py --trainers 8 --window 33

Everything is arithmetic that is printed with the answer: captions an iteration from the algorithm, tokens from the sizes of
pictures and captions, time a GPU needs by a roofline (--mfu of its peak for prompts, its memory's bandwidth for answers). No
figure was measured; measure yours with `vllm bench serve` and give --rate (captions a second of one GPU).
"""

from __future__ import annotations

import argparse
import dataclasses
import math

GPUS = {  # bfloat16 operations a second, bytes a second, bytes of memory: the vendor's figures
    "h200": (989e12, 4.8e12, 141e9),
    "h100": (989e12, 3.35e12, 80e9),
    "a100": (312e12, 2.0e12, 80e9),
    "l40s": (362e12, 0.864e12, 48e9),
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder with grouped attention. Defaults: the language part of Qwen3-VL-8B and Qwen3-8B."""

    parameters: float = 8.2e9
    layers: int = 36
    kv_heads: int = 8
    head: int = 128

    @property
    def cache_bytes(self) -> int:
        """Of one token's keys and values in bfloat16."""
        return 2 * self.layers * self.kv_heads * self.head * 2


def picture_tokens(pixels: int, patch: int = 32) -> int:
    """Qwen3-VL: a token for each 32 x 32 pixels (patches of 16, merged 2 x 2)."""
    return math.ceil(pixels / patch) ** 2


def captions(prompts: int, branches: int, views: int) -> int:
    """Of one iteration: K for each prompt and branch point."""
    return prompts * branches * views


def rate(gpu: str, model: Model, prompt: int, answer: int, batch: int, mfu: float) -> tuple[float, float, float]:
    """(captions a second of one GPU, seconds of prefill and of decoding of one caption in a full batch).

    Prefill: 2 x parameters x prompt tokens at mfu of the peak. A step of decoding reads all weights once and every
    sequence's cache, and gives each of `batch` sequences a token. The batch is what fits beside the weights, at most `batch`.
    """
    flops, bandwidth, memory = GPUS[gpu]
    weights = 2 * model.parameters
    room = (0.9 * memory - weights) / (model.cache_bytes * (prompt + answer))
    batch = max(1, min(batch, int(room)))
    prefill = 2 * model.parameters * prompt / (mfu * flops)
    step = max((weights + batch * model.cache_bytes * (prompt + answer / 2)) / bandwidth, 2 * model.parameters * batch / flops)
    decode = answer * step / batch
    return 1 / (prefill + decode), prefill, decode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", type=int, default=8, help="devices that train")
    parser.add_argument("--prompts-per-trainer", type=float, default=1.0)
    parser.add_argument("--branches", type=int, default=4, help="trained steps, each with its own pictures")
    parser.add_argument("--views", type=int, default=12, help="K")
    parser.add_argument("--pixels", type=int, default=512, help="side of a picture as it is sent")
    parser.add_argument("--instruction", type=int, default=70, help="tokens")
    parser.add_argument("--answer", type=int, default=80, help="tokens of a caption of some 60 words")
    parser.add_argument(
        "--window", type=float, default=33.0, help="seconds of sampling in an iteration: the plan command's figure"
    )
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h200")
    parser.add_argument("--batch", type=int, default=256, help="--max-num-seqs")
    parser.add_argument("--mfu", type=float, default=0.4)
    parser.add_argument("--rate", type=float, help="captions a second of one GPU, measured")
    o = parser.parse_args(argv)
    prompts = round(o.trainers * o.prompts_per_trainer)
    count = captions(prompts, o.branches, o.views)
    picture = picture_tokens(o.pixels)
    prompt = picture + o.instruction
    speed, prefill, decode = rate(o.gpu, Model(), prompt, o.answer, o.batch, o.mfu)
    if o.rate:
        speed = o.rate
    # Captions of a branch can only be written once it is sampled: the last branch's come after the window.
    hidden = o.window * (o.branches - 1) / o.branches if o.branches > 1 else 0.0
    last = count / o.branches
    lines = [
        f"captions an iteration   {prompts} prompts x {o.branches} branches x {o.views} views = {count}",
        f"tokens of a request     {picture} picture + {o.instruction} instruction + {o.answer} answer = {prompt + o.answer}",
        f"tokens an iteration     {count * (prompt + o.answer):,}",
    ]
    if o.rate:
        lines.append(f"one {o.gpu}              {speed:.1f} captions/s (given)")
    else:
        times = f"{1e3 * prefill:.1f} ms prefill + {1e3 * decode:.1f} ms decoding"
        lines.append(f"one {o.gpu}, by roofline  {times} = {speed:.1f} captions/s")
    gpus = max(1, math.ceil(count / speed / o.window))
    lines.append(f"GPUs                    {count} / {speed:.1f} / {o.window:g} s = {count / speed / o.window:.2f}, so {gpus}")
    wait = max(0.0, count / (gpus * speed) - hidden, last / (gpus * speed))
    lines.append(f"wait that stays         about {wait:.1f} s: the last branch's {last:.0f} captions come after the sampling")
    lines.append(f"to wait at most 2 s     {math.ceil(last / speed / 2.0)} GPUs")
    print("\n".join(lines))
    return gpus


if __name__ == "__main__":
    main()
