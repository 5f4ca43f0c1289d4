"""Small random torch models of the peers (diffusers, transformers), unlike each other on purpose."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from mvgrpo_jax.nano.pretrain import tokenizers

TEXT = dict(max_position_embeddings=tokenizers.CLIP_LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1)

VARIANTS = {
    # The world's own shape: guidance on, dynamic shift.
    "guided": dict(
        flux=dict(num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, axes_dims_rope=(4, 6, 6)),
        joint=24,
        pooled=20,
        guidance=True,
        vae=dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4),
        t5=dict(d_kv=8, num_heads=3, num_layers=2, d_ff=40),
        clip=dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, hidden_act="quick_gelu"),
        scheduler=dict(use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15),
    ),
    # No guidance, an odd number of heads, three VAE levels, GELU, static shift.
    "odd": dict(
        flux=dict(num_layers=1, num_single_layers=3, attention_head_dim=24, num_attention_heads=3, axes_dims_rope=(8, 4, 12)),
        joint=32,
        pooled=18,
        guidance=False,
        vae=dict(block_out_channels=(6, 12, 12), layers_per_block=2, norm_num_groups=3),
        t5=dict(d_kv=4, num_heads=5, num_layers=3, d_ff=24),
        clip=dict(num_hidden_layers=1, num_attention_heads=3, intermediate_size=30, hidden_act="gelu"),
        scheduler=dict(use_dynamic_shifting=False, shift=3.0),
    ),
    # One head, many single blocks, a VAE without attention in the middle.
    "narrow": dict(
        flux=dict(num_layers=1, num_single_layers=1, attention_head_dim=12, num_attention_heads=1, axes_dims_rope=(2, 4, 6)),
        joint=16,
        pooled=8,
        guidance=True,
        vae=dict(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, mid_block_add_attention=False),
        t5=dict(d_kv=16, num_heads=1, num_layers=1, d_ff=16),
        clip=dict(num_hidden_layers=3, num_attention_heads=1, intermediate_size=16, hidden_act="quick_gelu"),
        scheduler=dict(use_dynamic_shifting=False, shift=1.0),
    ),
}


def randomise(model: torch.nn.Module, seed: int, std: float = 0.15) -> torch.nn.Module:
    """Random values everywhere, so that no bias, norm or zero-initialised layer hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_scale = p.ndim == 1 and "norm" in name.lower() and name.endswith("weight")
            fan = p[0].numel() if p.ndim > 1 else 1
            p.copy_(1.0 + 0.2 * noise if is_scale else noise * (fan**-0.5 if p.ndim > 1 else std))
    return model.eval()


def transformer(variant: str) -> FluxTransformer2DModel:
    v = VARIANTS[variant]
    model = FluxTransformer2DModel(
        in_channels=64,
        joint_attention_dim=v["joint"],
        pooled_projection_dim=v["pooled"],
        guidance_embeds=v["guidance"],
        **v["flux"],
    )
    return randomise(model, 1)


def vae(variant: str) -> AutoencoderKL:
    v = VARIANTS[variant]["vae"]
    levels = len(v["block_out_channels"])
    model = AutoencoderKL(
        latent_channels=16,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        sample_size=16,
        **v,
    )
    return randomise(model, 2)


def t5(variant: str, vocab: int) -> T5EncoderModel:
    v = VARIANTS[variant]
    config = T5Config(d_model=v["joint"], vocab_size=vocab, feed_forward_proj="gated-gelu", dropout_rate=0.0, **v["t5"])
    return randomise(T5EncoderModel(config), 3)


def clip_text(variant: str, vocab: int) -> CLIPTextModel:
    v = VARIANTS[variant]
    return randomise(CLIPTextModel(CLIPTextConfig(hidden_size=v["pooled"], vocab_size=vocab, **TEXT, **v["clip"])), 4)


def clip(variant: str, vocab: int) -> CLIPModel:
    v = VARIANTS[variant]
    text = dict(hidden_size=v["pooled"], vocab_size=vocab, **TEXT, **v["clip"])
    vision = dict(v["clip"], hidden_size=v["clip"]["num_attention_heads"] * 10, image_size=24, patch_size=6)
    return randomise(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=14)), 5)


def write_pipeline(folder: Path, variant: str) -> Path:
    """A complete FluxPipeline folder, saved by diffusers."""
    tokenizer, tokenizer_2 = tokenizers.clip_tokenizer(), tokenizers.t5_tokenizer()
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**VARIANTS[variant]["scheduler"]),
        vae=vae(variant),
        text_encoder=clip_text(variant, len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=t5(variant, len(tokenizer_2)),
        tokenizer_2=tokenizer_2,
        transformer=transformer(variant),
    )
    pipeline.save_pretrained(folder)
    return folder
