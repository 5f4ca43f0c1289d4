"""Pipelines that are told apart before their weights are read."""

import json
import shutil

import pytest

from mvgrpo_jax import pipelines
from mvgrpo_jax.errors import UserError


@pytest.fixture
def copied(random_pipeline, tmp_path):
    """change(file, **values) -> a pipeline folder whose JSON file has other values; None takes a key out."""

    def change(file: str, drop: tuple[str, ...] = (), **values):
        folder = tmp_path / "pipeline"
        if not folder.exists():
            shutil.copytree(random_pipeline("guided"), folder)
        content = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({k: v for k, v in content.items() if k not in drop}))
        return folder

    return change


@pytest.mark.parametrize("channels, written", [(384, 64), (128, 64), (384, None), (64, 32)])
def test_fill_and_control_transformers_are_refused(copied, channels, written):
    """Flux Fill reads 384 channels, Depth and Canny 128; the VAE gives 4 x 16."""
    folder = copied("transformer/config.json", in_channels=channels, out_channels=written)
    for read in (pipelines.describe, pipelines.load):
        with pytest.raises(UserError) as error:
            read(folder)
        assert f"{channels} input and {written or channels} output channels, but its VAE gives 64" in str(error.value)
        assert "Fill" in str(error.value) and "Control" in str(error.value) and "not supported" in str(error.value)


def test_another_class_of_pipeline_is_refused(copied):
    with pytest.raises(UserError, match="says 'FluxFillPipeline'.*not supported"):
        pipelines.describe(copied("model_index.json", _class_name="FluxFillPipeline"))


def test_a_vae_without_a_sample_size_means_flux_s(copied):
    assert pipelines.describe(copied("vae/config.json")).default_size == 16
    assert pipelines.describe(copied("vae/config.json", sample_size=None)).default_size == 1024
    assert pipelines.describe(copied("vae/config.json", drop=("sample_size",))).default_size == 1024


@pytest.mark.parametrize("length", [None, 200, 40, 7])
def test_clip_reads_no_more_tokens_than_it_has_positions(copied, length):
    """The tokenizer says nothing (transformers then gives 1e30), more than the encoder's 40 positions, as many, or less."""
    drop, values = (("model_max_length",), {}) if length is None else ((), {"model_max_length": length})
    folder = copied("tokenizer/tokenizer_config.json", drop, **values)
    folder = copied("tokenizer_2/tokenizer_config.json", drop, **values)
    pipeline = pipelines.describe(folder)
    assert pipelines.clip_length(pipeline) == min(length or 40, 40)
    assert pipelines.text_length(pipeline) == min(length or 512, 512)
    text = "a large red circle on a white background " * 30
    ids_clip, ids_t5, cut = pipelines.tokenize(pipeline, [text], 24)
    assert ids_clip.shape == (1, min(length or 40, 40)) and ids_t5.shape == (1, 24) and len(cut) == 1
    assert ids_clip.max() < pipeline.text_encoder.shapes["text_model"]["embeddings"]["token_embedding"]["embedding"].shape[0]


def test_a_published_network_with_fewer_blocks():
    whole, cut = (pipelines.published(name) for name in ("FLUX.1-schnell", "FLUX.1-schnell:4+8"))
    assert cut.transformer.stacks == {"transformer_blocks": 4, "single_transformer_blocks": 8}
    assert not cut.flux_config.guidance_embeds and cut.flux_config.width == whole.flux_config.width
    for name in ("FLUX.1-dev:4", "FLUX.1-dev:0+8", "FLUX.1-dev:"):
        with pytest.raises(UserError, match="expected FLUX.1-dev:DOUBLE"):
            pipelines.published(name)
