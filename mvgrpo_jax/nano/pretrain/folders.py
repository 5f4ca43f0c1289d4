"""What pretraining writes: a diffusers FluxPipeline folder, and a transformers CLIPModel folder."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes

from mvgrpo_jax.convert.files import write_json
from mvgrpo_jax.convert.weights import export_params
from mvgrpo_jax.nano.pretrain import stages, tokenizers
from mvgrpo_jax.pipelines import WEIGHTS


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
