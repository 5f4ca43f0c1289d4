"""Tied, spare and missing keys of text encoders, as transformers treats them: it loads the same files."""

import warnings

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file, save_model

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert.weights import ParamsSource
from mvgrpo_jax.errors import UserError
from tests import peers

ALIASES = ("encoder.embed_tokens.weight", "shared.weight", "decoder.embed_tokens.weight")


@pytest.fixture
def t5(random_pipeline, tmp_path):
    """(network, a folder with the config, the file's tensors)."""
    return encoder(random_pipeline("odd"), "text_encoder_2", tmp_path)


@pytest.fixture
def clip(random_pipeline, tmp_path):
    return encoder(random_pipeline("odd"), "text_encoder", tmp_path)


def encoder(source, part, folder):
    (folder / "config.json").write_text((source / part / "config.json").read_text())
    return getattr(pipelines.describe(source), part), folder, load_file(source / part / "model.safetensors")


def same(net, folder, peer: type) -> None:
    """What we read equals what transformers loads from the folder, tensor for tensor."""
    theirs = {n.removeprefix("text_model."): t.numpy() for n, t in peer.from_pretrained(folder).state_dict().items()}
    ours = ParamsSource(net, import_params(net, folder))
    if "encoder.embed_tokens.weight" in theirs:  # the table that its encoder looks up
        theirs["shared.weight"] = theirs.pop("encoder.embed_tokens.weight")
    assert {n.removeprefix("text_model.") for n in ours.names()} == theirs.keys()
    for name in ours.names():
        np.testing.assert_array_equal(ours.read(name), theirs[name.removeprefix("text_model.")], name)


@pytest.mark.parametrize("kept", [ALIASES[:1], ALIASES[1:2], ALIASES[:2]])
def test_the_table_of_t5_under_either_name(t5, kept):
    """Alone under one of its names, and under two with different values, of which the encoder's own counts."""
    net, folder, content = t5
    table = content.pop("shared.weight")
    content |= {name: table + i for i, name in enumerate(kept)}
    save_file(content, folder / "model.safetensors", {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        same(net, folder, transformers.T5EncoderModel)


def whole_t5(folder, tied: bool) -> transformers.T5ForConditionalGeneration:
    config = transformers.T5Config.from_pretrained(folder, is_encoder_decoder=True, tie_word_embeddings=tied)
    return peers.randomise(transformers.T5ForConditionalGeneration(config), 7)


def test_the_encoder_out_of_a_whole_t5(t5):
    """Decoder and lm_head are left out with one warning that counts them."""
    net, folder, _ = t5
    whole_t5(folder, tied=False).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    extra = [n for n in stored if n.startswith(("decoder.block", "decoder.final", "lm_head"))]
    assert "lm_head.weight" in extra and len(extra) > 30
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import_params(net, folder)
    told = [str(w.message) for w in caught if "not used" in str(w.message)]
    assert len(told) == 1 and f"{len(extra)} keys are not used" in told[0] and f"{len(extra) - 8} more" in told[0]
    with pytest.warns(UserWarning, match="not used"):
        same(net, folder, transformers.T5EncoderModel)


def test_a_whole_t5_as_save_model_writes_it(t5):
    """It keeps one name of a tied table, the alphabetically first: decoder.embed_tokens. The values are the encoder's."""
    net, folder, _ = t5
    model = whole_t5(folder, tied=True)
    save_model(model, folder / "model.safetensors")
    assert set(load_file(folder / "model.safetensors")) & set(ALIASES) == {"decoder.embed_tokens.weight"}
    with pytest.warns(UserWarning, match="not used"):
        ours = ParamsSource(net, import_params(net, folder))
    for name in ours.names():
        np.testing.assert_array_equal(ours.read(name), model.state_dict()[name].numpy(), name)


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_clip_with_its_projection(clip, prefix):
    """ComfyUI's clip_l.safetensors and published text towers have it; Flux does not use it."""
    net, folder, content = clip
    content = {prefix + n.removeprefix("text_model."): t for n, t in content.items()}
    content |= {"text_projection.weight": torch.ones(18, 18), f"{prefix}embeddings.position_ids": torch.arange(40)[None]}
    save_file(content, folder / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"1 keys are not used by this part of the model: text_projection\.weight$"):
        same(net, folder, transformers.CLIPTextModel)


def test_the_text_tower_out_of_a_whole_clip(random_pipeline, tmp_path):
    """openai/clip-vit-large-patch14's file has both towers."""
    source = random_pipeline("odd")
    whole = peers.clip("odd", len(pipelines.describe(source).tokenizer))
    whole.save_pretrained(tmp_path)
    net = pipelines.describe(source).text_encoder
    with pytest.warns(UserWarning, match="logit_scale, text_projection.weight, vision_model.*more"):
        ours = ParamsSource(net, import_params(net, tmp_path))
    theirs = whole.state_dict()
    for name in ours.names():
        np.testing.assert_array_equal(ours.read(name), theirs[name].numpy(), name)


def test_keys_of_another_model_stay_an_error(t5, clip):
    for (net, folder, content), extra in (
        (t5, "text_model.final_layer_norm.weight"),
        (t5, "decoder.mid.attn_1.q.weight"),
        (clip, "lm_head.weight"),
        (clip, "encoder.embed_tokens.weight"),
    ):
        save_file(content | {extra: torch.ones(2)}, folder / "model.safetensors")
        with pytest.raises(UserError, match=f"unexpected: {extra}"):
            import_params(net, folder)
    net, folder, content = t5
    del content["shared.weight"]
    save_file(content | {"lm_head.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 problems.*\n  missing: shared.weight"):
        import_params(net, folder)
