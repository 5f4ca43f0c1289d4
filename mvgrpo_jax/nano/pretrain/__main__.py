"""python -m mvgrpo_jax.nano.pretrain --out DIR [--seed S] [--scale X]

Makes flux-nano and clip-nano from nothing: draws the corpus, trains autoencoder, contrastive towers and rectified
flow, and writes a diffusers pipeline folder and a transformers CLIPModel folder. Stopped runs go on where they were.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from mvgrpo_jax.configuration import flags
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.nano.pretrain import curve, stages, tokenizers
from mvgrpo_jax.nano.pretrain.corpus import Corpus
from mvgrpo_jax.nano.pretrain.folders import write_clip, write_pipeline

CORPUS = 40_000
FLOW_STEPS = 5_500


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mvgrpo_jax.nano.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for flux-nano/, clip-nano/ and the logs")
    parser.add_argument("--seed", type=flags.seed, default=0)
    parser.add_argument("--scale", type=flags.level, default=1.0, help="multiplies every training length and the corpus")
    options = parser.parse_args(argv)
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)

    tokenizer, tokenizer_2 = tokenizers.clip_tokenizer(), tokenizers.t5_tokenizer()
    vocab = (len(tokenizer), len(tokenizer_2))
    nets, size = stages.networks(*vocab), stages.sizes()
    print(f"drawing the corpus; logs in {work}")
    corpus = Corpus.draw(max(500, round(CORPUS * options.scale)), options.seed)
    stage = stages.Stage(corpus, work, options.seed, options.scale)

    vae_params = stages.autoencoder(stage, nets["vae"])
    clip_params = stages.contrastive(stage, nets["clip"], tokenizer)
    write_clip(options.out / "clip-nano", nets["clip"], clip_params, size, vocab[0])
    latents, shift, scale = stages.latent_statistics(stage, nets["vae"], vae_params)
    text_params = {"text_model": clip_params["text_model"]}

    def save(step: int, average) -> None:
        params = {"vae": vae_params, "text_encoder": text_params}
        params |= {"transformer": average["flow"], "text_encoder_2": average["t5"]}
        params = jax.tree.map(np.asarray, params)
        write_pipeline(options.out / "flux-nano", nets, params, size, vocab, shift, scale)

    stages.rectified_flow(
        stage,
        nets["transformer"],
        nets["text_encoder_2"],
        nets["text_encoder"],
        text_params,
        latents,
        (tokenizer, tokenizer_2),
        steps=FLOW_STEPS,
        on_save=save,
    )
    curve.draw(work, options.out / "curve.png")
    print(f"pipeline in {options.out / 'flux-nano'}, reward tower in {options.out / 'clip-nano'}")


if __name__ == "__main__":
    main()
