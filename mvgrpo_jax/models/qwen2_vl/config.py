"""The fields of a Qwen2-VL config.json that shape the network."""

from __future__ import annotations

import dataclasses

from mvgrpo_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower; defaults are those of every published size. hidden_size: the decoder's width."""

    depth: int = 32
    embed_dim: int = 1280
    num_heads: int = 16
    mlp_ratio: int = 4
    in_channels: int = 3
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    hidden_act: str = "quick_gelu"
    hidden_size: int = 3584


@dataclasses.dataclass(frozen=True)
class Qwen2VLConfig:
    """The decoder and its vision tower; defaults are Qwen2-VL-7B-Instruct's.

    mrope_section: how many rotary frequencies take the position in time, height and width.
    """

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    mrope_section: tuple[int, ...] = (16, 24, 24)
    image_token_id: int = 151655
    vision: VisionConfig = VisionConfig()

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


_NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def config_from(config: dict, source: str = "config.json") -> Qwen2VLConfig:
    """From the content of a Qwen2-VL config.json, whose decoder's fields stand at the top (transformers 4) or under text_config
    (transformers 5). What it leaves out has transformers' default. UserError for other models and for sizes that do not fit."""
    if config.get("model_type") != "qwen2_vl":
        raise UserError(
            f"{source}: expected the config.json of a Qwen2-VL (model_type qwen2_vl), found {config.get('model_type')!r}; "
            "give the folder of Qwen2-VL-7B-Instruct or of a model trained from it"
        )
    text = config.get("text_config") or config
    if missing := [k for k in (*_NEEDED, "vocab_size") if k not in text]:
        raise UserError(f"{source}: expected {', '.join(missing)}; copy the whole file again")
    if text.get("use_sliding_window"):
        raise UserError(
            f"{source}: use_sliding_window must be false, as in every published Qwen2-VL; this decoder attends fully"
        )
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    seen = dict(config.get("vision_config") or {})
    seen["in_channels"] = seen.get("in_channels", seen.get("in_chans", 3))
    out = Qwen2VLConfig(
        **{k: text[k] for k in (*_NEEDED, "vocab_size")},
        hidden_act=text.get("hidden_act", "silu"),
        rms_norm_eps=text.get("rms_norm_eps", 1e-5),
        rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
        mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
        image_token_id=config.get("image_token_id", 151655),
        vision=VisionConfig(**{f.name: seen[f.name] for f in dataclasses.fields(VisionConfig) if f.name in seen}),
    )
    if 2 * sum(out.mrope_section) != out.head_dim:
        raise UserError(
            f"{source}: expected mrope_section to sum to half the head size, {out.head_dim // 2}, found {out.mrope_section}"
        )
    if out.vision.hidden_size != out.hidden_size:
        raise UserError(
            f"{source}: expected vision_config.hidden_size {out.hidden_size}, the decoder's, found {out.vision.hidden_size}"
        )
    return out
