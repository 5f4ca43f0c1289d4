"""Small random Qwen2-VL models of transformers, unlike each other, and their configs in the old and the new form."""

from transformers import Qwen2VLConfig, Qwen2VLModel

from tests.peers import randomise

IMAGE, START, END = 5, 6, 7  # ids of the tokens of a picture

VARIANTS = {
    # Grouped heads, as the published sizes have them.
    "grouped": dict(
        text=dict(hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2),
        vision=dict(depth=2, embed_dim=24, num_heads=3, mlp_ratio=2, patch_size=4, spatial_merge_size=2),
        rope=dict(rope_theta=1e6, mrope_section=[1, 1, 2]),
        eps=1e-6,
    ),
    # One key for all heads, one patch a token, patches of one frame, a small base and a large epsilon.
    "single": dict(
        text=dict(hidden_size=36, intermediate_size=20, num_hidden_layers=1, num_attention_heads=3, num_key_value_heads=1),
        vision=dict(depth=3, embed_dim=16, num_heads=1, mlp_ratio=3, patch_size=5, spatial_merge_size=1, temporal_patch_size=1),
        rope=dict(rope_theta=500.0, mrope_section=[2, 3, 1]),
        eps=1e-2,
    ),
    # A key for each head, nine patches a token, another activation.
    "whole": dict(
        text=dict(hidden_size=20, intermediate_size=44, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2),
        vision=dict(depth=1, embed_dim=40, num_heads=2, mlp_ratio=1, patch_size=3, spatial_merge_size=3, hidden_act="gelu"),
        rope=dict(rope_theta=1e4, mrope_section=[3, 1, 1]),
        eps=1e-5,
    ),
}


def config(variant: str, vocab: int = 40, **ids: int) -> Qwen2VLConfig:
    v = VARIANTS[variant]
    text = dict(
        vocab_size=vocab,
        rms_norm_eps=v["eps"],
        rope_parameters={"rope_type": "default", **v["rope"]},
        use_sliding_window=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **v["text"],
    )
    vision = dict(hidden_size=v["text"]["hidden_size"], **v["vision"])
    tokens = dict(image_token_id=IMAGE, vision_start_token_id=START, vision_end_token_id=END, video_token_id=vocab - 1)
    return Qwen2VLConfig(text_config=text, vision_config=vision, **(tokens | ids))


def model(variant: str, vocab: int = 40, **ids: int) -> Qwen2VLModel:
    return randomise(Qwen2VLModel(config(variant, vocab, **ids)).float(), seed=list(VARIANTS).index(variant))


def old_config(variant: str, vocab: int = 40, **ids: int) -> dict:
    """The config.json that transformers 4 wrote for it: the decoder's fields at the top, the vision tower's old names."""
    new = config(variant, vocab, **ids)
    v = VARIANTS[variant]
    vision = dict(v["vision"], hidden_size=v["text"]["hidden_size"], in_chans=3, model_type="qwen2_vl")
    return dict(
        v["text"],
        model_type="qwen2_vl",
        vocab_size=vocab,
        rms_norm_eps=v["eps"],
        rope_theta=v["rope"]["rope_theta"],
        rope_scaling={"type": "mrope", "mrope_section": v["rope"]["mrope_section"]},
        use_sliding_window=False,
        hidden_act="silu",
        vision_config=vision,
        image_token_id=new.image_token_id,
        vision_start_token_id=new.vision_start_token_id,
        vision_end_token_id=new.vision_end_token_id,
    )


def old_name(name: str) -> str:
    """transformers 5's parameter of a Qwen2VLModel -> its name in files of transformers 4."""
    return name.replace("language_model.", "model.", 1) if name.startswith("language_model.") else name
