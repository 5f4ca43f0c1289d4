"""Pictures a second of each judge beside its torch original, under 1 and 13 texts: `python bench/judges.py`.

Small random models of each judge's architecture, written to files as the authors publish them and read by both sides:
open_clip's and transformers' CLIP (clip, pickscore), HPSv2's, ImageReward's BLIP, HPSv3's Qwen2-VL. Ours starts from pictures
in memory and ends at numbers, preprocessing included; so does the original, with Pillow. A CLIP original embeds each picture
and each text once, ImageReward's and HPSv3's take every pair anew. For HPSv3 there is also our own network the plain way,
every pair a whole sequence, without what captions of a picture share. Scores are compared before anything is timed; figures
go to docs/bench/judges.json.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import timing  # noqa: E402

if __name__ == "__main__":
    timing.begin()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from mvgrpo_jax import rewards  # noqa: E402
from mvgrpo_jax.errors import UserError, reports_errors  # noqa: E402
from mvgrpo_jax.planning import flops  # noqa: E402
from tests.rewards import hpsv3_peer, judges  # noqa: E402

KINDS = ("clip", "pickscore", "hpsv2", "imagereward", "hpsv3")
VIEWS = (1, 13)
TOLERANCE = 1e-3  # of a score, beside the largest
# Widths at which matrix products and not calls take the time; depth and sequence lengths are the architectures' own kind.
LARGE = {
    "open": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 224, "layers": 6, "width": 256, "head_width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 4},
    },
    "hugging": (dict(text=(192, 768, 4, 3), vision=(256, 1024, 6, 4), act="gelu", side=224, patch=16, eos=49407), 128),
    "blip": ((256, 6, 224, 16), (192, 768, 4, 3)),
    "hpsv3": dict(
        text=dict(hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2),
        vision=dict(depth=4, embed_dim=128, num_heads=4, mlp_ratio=4, patch_size=14, spatial_merge_size=2),
        eps=1e-6,
        section=[4, 6, 6],
    ),
}


@dataclasses.dataclass
class Pair:
    """Our judge with its parameters, and the original: theirs(pictures of Pillow, texts) -> [N, V]. plain: our judge where
    nothing is shared, None where there is no such."""

    judge: object
    theirs: Callable
    plain: Callable | None = None

    def __post_init__(self):
        self.params, self.run = self.judge.load(), jax.jit(self.judge.score)

    def ours(self, images: np.ndarray, texts: list[str]) -> np.ndarray:
        """[N, V] of pictures [N, H, W, 3] under each of the texts, all pictures at once."""
        tokens = jax.tree.map(lambda a: a[:, None], self.judge.tokens(texts))
        return np.asarray(self.run(self.params, images[None], tokens).scores)[:, 0].T

    def operations(self, images: np.ndarray, texts: list[str]) -> int:
        tokens = jax.tree.map(lambda a: a[:, None], self.judge.tokens(texts))
        return flops.count(self.judge.score, self.params, images[None], tokens)


def of_case(kind: str, folder: Path) -> Pair:
    """The judges that tests/rewards/judges.py writes, at the sizes above."""
    sizes = ((judges.OPEN, "open"), (judges.HUGGING, "hugging"), (judges.BLIP, "blip"))
    with contextlib.ExitStack() as stack:
        for known, name in sizes:
            stack.enter_context(mock.patch.dict(known, exact=LARGE[name]))
        case = judges.MAKERS["clip of open_clip" if kind == "clip" else kind](folder, "exact")
    return Pair(rewards.make(case.kind, case.options), case.peer)


def of_hpsv3(folder: Path, chunk: int = 4) -> Pair:
    """HPSv3, whose original takes as many pictures at a time as our judge, each with a text and its instruction."""
    with mock.patch.dict(hpsv3_peer.VARIANTS, large=LARGE["hpsv3"]):
        peer = hpsv3_peer.Peer(folder, "large")
    judge = hpsv3_peer.judge_of(peer, chunk=chunk)
    read = peer.tokenizer.get_vocab_size()
    merged = peer.v["vision"]["spatial_merge_size"] ** 2

    def theirs(pictures: list[Image.Image], texts: list[str]) -> np.ndarray:
        seen = [peer.pixels(as_file(picture)) for picture in pictures]
        scores = np.zeros((len(pictures), len(texts)), np.float32)
        for v, text in enumerate(texts):
            for first in range(0, len(pictures), chunk):
                part = seen[first : first + chunk]
                ids = hpsv3_peer.turn(peer.tokenizer, text, int(part[0]["image_grid_thw"].prod()) // merged)
                at, rows = ids.index(read), torch.tensor([ids] * len(part))
                with torch.inference_mode():
                    hidden = peer.model(
                        input_ids=rows,
                        mm_token_type_ids=(rows == peer.model.config.image_token_id).int(),
                        position_ids=torch.arange(len(ids)).expand(3, len(part), -1),
                        use_cache=False,
                        pixel_values=torch.cat([s["pixel_values"] for s in part]),
                        image_grid_thw=torch.cat([s["image_grid_thw"] for s in part]),
                    ).last_hidden_state
                    scores[first : first + chunk, v] = peer.rm_head(hidden[:, at])[:, 0]
        return scores

    pair = Pair(judge, theirs)
    # Under one text at a time a judge shares nothing between texts: a whole sequence for each pair.
    pair.plain = lambda images, texts: np.concatenate([pair.ours(images, [text]) for text in texts], 1)
    return pair


def as_file(picture: Image.Image) -> io.BytesIO:
    """Uncompressed, so that reading it costs next to nothing."""
    file = io.BytesIO()
    picture.save(file, "bmp")
    file.seek(0)
    return file


def pictures_of(count: int, side: int) -> np.ndarray:
    """uint8 [count, side, side, 3]: large patches of colour, which resizing keeps apart."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((1, side // 8, side // 8, 1), np.uint8))


def texts_of(count: int) -> list[str]:
    """Captions of a dozen words, unlike each other."""
    colours, things = ("red", "green", "white", "black"), ("cat", "table", "circle", "ship", "tower")
    one = lambda i: f"a {colours[i % 4]} {things[i % 5]} number {i} on a {colours[(i + 1) % 4]} background, oil painting"
    return [one(i) for i in range(count)]


def measure(kind: str, pair: Pair, images: np.ndarray, views: int, rounds: int, most: float) -> dict:
    """Seconds and ratios of pictures [N, H, W, 3] under so many texts."""
    texts, pillow = texts_of(views), [Image.fromarray(image) for image in images]
    arms = {"ours": lambda: pair.ours(images, texts), "torch": lambda: pair.theirs(pillow, texts)}
    if pair.plain and views > 1:
        arms["ours, nothing shared"] = lambda: pair.plain(images, texts)
    scores = {name: call() for name, call in arms.items()}
    largest = np.abs(scores["torch"]).max()
    apart = {name: float(np.abs(s - scores["torch"]).max() / largest) for name, s in scores.items() if name != "torch"}
    if max(apart.values()) > TOLERANCE:
        raise UserError(f"{kind}: scores differ from the original's by {apart} of the largest, more than {TOLERANCE}")
    products, product = timing.products()
    with timing.Disturbance() as others:
        seconds = timing.interleaved(arms | products, rounds, warm=0, most=most)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    ratios = {name: timing.ratio(seconds[name], seconds["ours"]) for name in arms if name != "ours"}
    row = {"pictures": len(images), "texts": views, "rounds": len(seconds["ours"]), "seconds": medians, "ratios": ratios}
    row |= {"operations": pair.operations(images, texts), "product": product, "difference": apart, "others": others.share}
    return row


def line(kind: str, row: dict) -> tuple:
    """Of the table."""
    seconds, count = row["seconds"], row["pictures"]
    gflops = row["operations"] / seconds["ours"] / 1e9
    share = gflops / (row["product"] / seconds["product, jax"] / 1e9)
    shared = row["ratios"].get("ours, nothing shared", "")
    rates = (count / seconds["ours"], count / seconds["torch"])
    return (kind, row["texts"], *rates, row["ratios"]["torch"], shared, gflops, f"{share:.0%}", f"{row['others']:.0%}")


HEAD = ("judge", "texts", "ours, pictures/s", "torch, pictures/s", "torch times ours", "nothing shared times ours")
HEAD += ("ours GFLOP/s", "of a product", "others")


@reports_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--texts", type=int, nargs="+", default=list(VIEWS))
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--side", type=int, default=512, help="pixels, a multiple of 8")
    timing.add_arguments(parser, rounds=7, seconds=120.0, name="judges")
    options = parser.parse_args()
    images, lines = pictures_of(options.pictures, options.side), []
    for kind in options.kind:
        with tempfile.TemporaryDirectory() as folder:
            pair = of_hpsv3(Path(folder)) if kind == "hpsv3" else of_case(kind, Path(folder))
            for views in options.texts:
                row = measure(kind, pair, images, views, options.rounds, options.seconds)
                timing.record(options.out, f"{kind}, {views} texts", row, row["others"])
                lines.append(line(kind, row))
                print(timing.table(HEAD, lines[-1:]).splitlines()[-1], flush=True)
    print("\n" + timing.table(HEAD, lines))


if __name__ == "__main__":
    main()
