"""python -m mvgrpo_jax.nano.pretrain --out DIR [--seed S] [--scale X]

Makes flux-nano and clip-nano from nothing: draws the corpus, trains autoencoder, contrastive towers and rectified
flow, and writes a diffusers pipeline folder and a transformers CLIPModel folder. Stopped runs go on where they were.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from mvgrpo_jax.configuration import flags
from mvgrpo_jax.convert.files import write_json
from mvgrpo_jax.convert.weights import export_params
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.nano.pretrain import curve, stages, tokenizers
from mvgrpo_jax.nano.pretrain.corpus import Corpus
from mvgrpo_jax.pipelines import WEIGHTS

CORPUS = 40_000
FLOW_STEPS = 5_500


def write_pipeline(folder: Path, nets, params, size, vocab, shift: float, scale: float) -> None:
    """A FluxPipeline folder; model_index.json last. Weights in bfloat16, as Flux's own are."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizers.save(folder)
    configs = {
        "transformer": {"_class_name": "FluxTransformer2DModel", "patch_size": 1, **size["transformer"]},
        "vae": {
            "_class_name": "AutoencoderKL",
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 16,
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "act_fn": "silu",
            "mid_block_add_attention": True,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "scaling_factor": scale,
            "shift_factor": shift,
            **size["vae"],
        },
        "text_encoder": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "layer_norm_eps": 1e-5,
            "projection_dim": 64,
            "vocab_size": vocab[0],
            **size["text_encoder"],
        },
        "text_encoder_2": {
            "architectures": ["T5EncoderModel"],
            "model_type": "t5",
            "vocab_size": vocab[1],
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "dropout_rate": 0.0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "is_encoder_decoder": False,
            "tie_word_embeddings": True,
            **size["text_encoder_2"],
        },
    }
    for name, config in configs.items():
        write_json(folder / name / "config.json", config)
        export_params(nets[name], params[name], folder / name, WEIGHTS[name], dtype=ml_dtypes.bfloat16)
    write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 3.0,
            "use_dynamic_shifting": False,
        },
    )
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "FluxPipeline",
            "_diffusers_version": "0.42.1",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def write_clip(folder: Path, net, params, size, vocab: int) -> None:
    """A CLIPModel folder with its tokenizer and image processor."""
    text = {"model_type": "clip_text_model", "layer_norm_eps": 1e-5, "vocab_size": vocab, **size["text_encoder"]}
    vision = {"model_type": "clip_vision_model", "layer_norm_eps": 1e-5, "num_channels": 3, **size["vision"]}
    write_json(
        folder / "config.json",
        {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": 64,
            "text_config": text,
            "vision_config": vision,
        },
    )
    side = {"height": size["vision"]["image_size"], "width": size["vision"]["image_size"]}
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side["height"]},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": side,
            "do_normalize": True,
            "image_mean": [stages.CLIP_MEAN] * 3,
            "image_std": [stages.CLIP_STD] * 3,
        },
    )
    export_params(net, params, folder, "model", dtype=ml_dtypes.bfloat16)
    tokenizers.clip_tokenizer().save_pretrained(folder)


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
