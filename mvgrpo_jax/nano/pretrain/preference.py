"""python -m mvgrpo_jax.nano.pretrain.preference --out DIR [--seed S] [--scale X]

Makes nano-hps, a preference judge of the embedded world, as HPSv2 was made of CLIP: clip-nano's towers, trained on which of two
pictures of a caption is better. Better is by UTILITY, the exact judge's score and the quality that no caption states. Half of
the pairs were painted by flux-nano, by solvers of unlike worth; half were drawn and then spoilt. A stopped run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from mvgrpo_jax.configuration import flags
from mvgrpo_jax.convert.files import write_json
from mvgrpo_jax.convert.weights import import_params
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.models.module import Network, Params
from mvgrpo_jax.nano.pretrain import stages, tokenizers
from mvgrpo_jax.nano.pretrain.folders import write_clip
from mvgrpo_jax.nano.pretrain.loop import train
from mvgrpo_jax.nano.world import captions, quality, render, scene, score, truth
from mvgrpo_jax.rewards.kinds.clip import EMBEDDED
from mvgrpo_jax.rewards.preprocess import as_float
from mvgrpo_jax.run import sampling

QUALITY = 0.5  # weight of the quality beside the exact score
TEMPERATURE = 0.05  # difference of utilities at which the better picture is preferred by e to 1
SOLVERS = (("ode", 3), ("ode", 5), ("ode", 8), ("sde", 4), ("sde", 5), ("sde", 8))  # and their steps
PAINTED, HELD_OUT = 1_600, 256  # captions whose pictures are painted
STEPS, BATCH = 1_000, 48
LOGITS = 30.0  # cosine -> logits; CLIP's own grows to 100, which short training on soft preferences does not need


def utility(image: np.ndarray, description: scene.Scene) -> float:
    """Of a picture, float [SIDE, SIDE, 3] in [0, 1], for what is asked, in [0, 1.5]."""
    return score.score(image, description) + QUALITY * quality.quality(image)


def describe(count: int, held_out: bool, seed: int) -> list[str]:
    """Captions of any length of scenes that are drawn anew."""
    rng = np.random.default_rng([seed, 3, int(held_out)])
    return [captions.training_caption(scene.sample(rng, held_out), rng) for _ in range(count)]


def paint(texts: list[str], seed: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [N, len(SOLVERS), H, W, 3] of N texts by each solver, and their utilities [N, len(SOLVERS)]; both are kept
    in a file, and read from it where it is there."""
    if not path.exists():
        pipeline, pictures = sampling.load("flux-nano"), []
        for number, (solver, steps) in enumerate(SOLVERS):
            painter = sampling.Painter(pipeline, steps=steps, solver=solver)
            ids, _ = painter.tokenize(texts)
            latents = sampling.initial_latents(seed + number, 0, len(texts), painter.shape)
            with tqdm(total=len(texts), desc=f"painting, {solver} {steps}", mininterval=5) as bar:
                images = painter.paint(ids, latents, seed=seed + number, batch=64, painted=bar.update)
            pictures.append(np.round(images * 255).astype(np.uint8))
        drawn = np.stack(pictures, axis=1)
        read = [captions.read(text) for text in texts]
        worth = [[utility(as_float(image), of) for image in row] for row, of in zip(tqdm(drawn, desc="judging"), read)]
        np.savez_compressed(path, pictures=drawn, utilities=np.asarray(worth, np.float32))
    found = np.load(path)
    return found["pictures"], found["utilities"]


def spoil(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A drawing with up to three faults: blur, noise, a stray mark. float32 [SIDE, SIDE, 3] in [0, 1]."""
    if rng.random() < 0.5:
        image = ndimage.gaussian_filter(image, (*[rng.uniform(0.3, 1.5)] * 2, 0))
    if rng.random() < 0.3:
        row, column = rng.uniform(3, render.SIDE - 3, 2)
        mark = render.coverage(str(rng.choice(scene.SHAPES)), row, column, rng.uniform(0.8, 3.0))[..., None]
        image = image * (1 - mark) + rng.uniform(0, 1, 3) * mark
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(0.01, 0.12), image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def drawn_pair(rng: np.random.Generator) -> tuple[str, np.ndarray, np.ndarray]:
    """(caption, two pictures, their utilities): each shows the caption's scene, or one with an attribute altered, spoilt."""
    right = scene.sample(rng)
    asked = captions.training_description(right, rng)
    images = []
    for _ in range(2):
        shown = truth.alter(scene.Scene(right.things, right.background), rng) if rng.random() < 0.5 else right
        images.append(spoil(render.draw(shown, rng), rng))
    return captions.write(asked), np.stack(images), np.asarray([utility(i, asked) for i in images], np.float32)


def preferences(net: Network, params: Params, ids: jax.Array, pairs: jax.Array) -> jax.Array:
    """Logits [N, 2] of two pictures [N, 2, H, W, 3] in [-1, 1] for texts [N, S]."""
    module = net.bind(params)
    text = module.embed_text(ids)
    image = module.embed_image(pairs.reshape(-1, *pairs.shape[2:])).reshape(*pairs.shape[:2], -1)
    return LOGITS * jnp.einsum("nd,nkd->nk", text, image)


def tune(net: Network, start: Params, texts, pictures, utilities, *, steps: int, seed: int, folder: Path) -> Params:
    """Cross entropy of the preferred picture, softly by the difference of utilities."""
    tokenizer = tokenizers.clip_tokenizer()

    def ids_of(words: list[str]) -> np.ndarray:
        found = tokenizer(words, padding="max_length", max_length=tokenizers.CLIP_LENGTH, truncation=True)["input_ids"]
        return np.asarray(found, np.int32)

    known = ids_of(texts)

    def batch_fn(step, rng):
        rows = rng.integers(len(texts), size=BATCH)
        which = np.stack([rng.permutation(len(SOLVERS))[:2] for _ in rows])
        painted, worth = as_float(pictures[rows[:, None], which]), utilities[rows[:, None], which]
        words, drawn, theirs = zip(*(drawn_pair(rng) for _ in range(BATCH)))
        ids, pairs = np.concatenate([known[rows], ids_of(list(words))]), np.concatenate([painted, np.stack(drawn)])
        return ids, (pairs * 2 - 1).astype(np.float32), np.concatenate([worth, np.stack(theirs)])

    def loss_fn(params, average, step, key, ids, pairs, worth):
        logits, wanted = preferences(net, params, ids, pairs), jax.nn.softmax(worth / TEMPERATURE)
        right = (logits.argmax(1) == worth.argmax(1)).mean()
        return -(wanted * jax.nn.log_softmax(logits)).sum(1).mean(), {"right": right}

    return train(
        "hps", start, loss_fn, batch_fn, steps=steps, learning_rate=5e-4, seed=seed, folder=folder, decay=0.99, save_every=100
    )


def agreement(net: Network, params: Params, texts: list[str], pictures: np.ndarray, utilities: np.ndarray) -> float:
    """Share of pairs of painted pictures of a caption that the judge ranks as their utilities do, without near ties."""
    ids = tokenizers.clip_tokenizer()(texts, padding="max_length", max_length=tokenizers.CLIP_LENGTH, truncation=True)
    logits = jax.jit(lambda ids, images: preferences(net, params, ids, images))
    found = np.asarray(logits(np.asarray(ids["input_ids"], np.int32), as_float(pictures) * 2 - 1))
    a, b = np.triu_indices(pictures.shape[1], 1)
    gap = utilities[:, a] - utilities[:, b]
    told = np.abs(gap) > TEMPERATURE
    return float((np.sign(found[:, a] - found[:, b]) == np.sign(gap))[told].mean())


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mvgrpo_jax.nano.pretrain.preference", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for nano-hps/ and the log")
    parser.add_argument("--seed", type=flags.seed, default=0)
    parser.add_argument("--scale", type=flags.level, default=1.0, help="multiplies every length")
    options = parser.parse_args(argv)
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    size, vocab = stages.sizes(), len(tokenizers.clip_tokenizer())
    net = stages.networks(vocab, len(tokenizers.t5_tokenizer()))["clip"]
    start = import_params(net, EMBEDDED["clip-nano"], dtype=jnp.float32)
    count = lambda full: max(8, round(full * options.scale))
    sets = {}
    for name, number in (("train", PAINTED), ("held_out", HELD_OUT)):
        texts = describe(count(number), name == "held_out", options.seed)
        sets[name] = (texts, *paint(texts, options.seed, work / f"{name}.npz"))
    params = tune(net, start, *sets["train"], steps=count(STEPS), seed=options.seed, folder=work)
    write_clip(options.out / "nano-hps", net, params, size, vocab)
    told = {"clip-nano": agreement(net, start, *sets["held_out"]), "nano-hps": agreement(net, params, *sets["held_out"])}
    write_json(options.out / "agreement.json", told)
    said = ", ".join(f"{name} {value:.3f}" for name, value in told.items())
    print(f"{options.out / 'nano-hps'}; share of held-out pairs that are ranked as their utilities are: {said}")


if __name__ == "__main__":
    main()
