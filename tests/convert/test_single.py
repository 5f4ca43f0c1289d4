"""Single files of every part of a pipeline, as ComfyUI's users have them, and the configs that their shapes imply."""

import json

import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import folders, single
from mvgrpo_jax.convert.__main__ import main
from mvgrpo_jax.convert.naming import entries
from mvgrpo_jax.convert.sources import Described
from mvgrpo_jax.convert.weights import checked
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import clip, flux, t5, vae

FILES = {n: f"{n}/{stem}.safetensors" for n, stem in pipelines.WEIGHTS.items()}
PEERS = {
    "transformer": FluxTransformer2DModel,
    "vae": AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
    "text_encoder_2": transformers.T5EncoderModel,
}
# What the files of ComfyUI hold beside the weights.
EXTRA = {
    "text_encoder": {
        "text_projection.weight": torch.ones(18, 18),
        "text_model.embeddings.position_ids": torch.arange(40)[None],
    },
    "text_encoder_2": {"encoder.embed_tokens.weight": None},
}


def plain(name: str) -> str:
    return name.removeprefix("text_model.")


def single_file(source, part: str, path) -> dict:
    """A component as one file outside of a folder; returns the tensors that an import of it must have."""
    content = load_file(source / FILES[part])
    if part == "text_encoder":  # transformers 5 leaves the prefix out, every published file has it
        content = {f"text_model.{plain(n)}": t for n, t in content.items()}
    extra = {n: content["shared.weight"].clone() if t is None else t for n, t in EXTRA.get(part, {}).items()}
    save_file(content | extra, path)
    return {plain(n): t for n, t in content.items()}


def same(folder, part: str, want: dict) -> None:
    got = {plain(n): t for n, t in load_file(folder / FILES[part]).items()}
    assert got.keys() == want.keys() and all(torch.equal(got[n], want[n]) for n in want)


@pytest.mark.filterwarnings("ignore:.*not used by this part")
@pytest.mark.parametrize(
    "part", [pytest.param(p, marks=[] if p in ("transformer", "vae") else pytest.mark.nightly) for p in FILES]
)
def test_one_component_into_a_pipeline(random_pipeline, tmp_path, part):
    """The component comes from the file, everything else from --base, its config too; the peers load the result."""
    source, other = random_pipeline("odd"), tmp_path / "base"
    pipelines.save(pipelines.load(source), other)
    wrong = load_file(other / FILES[part])
    save_file({n: torch.zeros_like(t) for n, t in wrong.items()}, other / FILES[part])
    want = single_file(source, part, tmp_path / "x.safetensors")
    main(["import", "--src", str(tmp_path / "x.safetensors"), "--dst", str(tmp_path / "out"), "--base", str(other)])
    for name in FILES:
        same(
            tmp_path / "out", name, {plain(n): t for n, t in load_file(source / FILES[name]).items()} if name != part else want
        )
    config = json.loads((tmp_path / "out" / part / "config.json").read_text())
    assert config == json.loads((source / part / "config.json").read_text())
    loaded = {plain(n): t for n, t in PEERS[part].from_pretrained(tmp_path / "out" / part).state_dict().items()}
    assert all(torch.equal(loaded[n], t) for n, t in want.items())
    pipelines.load(tmp_path / "out")


@pytest.mark.filterwarnings("ignore:.*not used by this part")
@pytest.mark.parametrize("part, given", [("transformer", False), ("text_encoder_2", False), ("text_encoder", True)])
def test_one_component_alone(random_pipeline, tmp_path, part, given):
    """Without a base: T5's and the transformer's shapes tell their configs (this variant's rotary split apart), a small CLIP
    needs --config. The peer loads the folder."""
    source = random_pipeline("guided")
    want = single_file(source, part, tmp_path / "x.safetensors")
    given = ["--config", str(source / part / "config.json")] if given else []
    if part == "text_encoder":
        content = load_file(tmp_path / "x.safetensors")
        save_file({n: t for n, t in content.items() if n != "text_projection.weight"}, tmp_path / "x.safetensors")
        with pytest.raises(
            UserError, match="a text tower other than CLIP-L: .*hidden_size 20.* give its config.json with --config"
        ):
            folders.import_file(tmp_path / "x.safetensors", tmp_path / "out")
    main(["import", "--src", str(tmp_path / "x.safetensors"), "--dst", str(tmp_path / "out"), *given])
    same(tmp_path / "out", part, want)
    peer = PEERS[part].from_pretrained(tmp_path / "out" / part)
    loaded = {plain(n): t for n, t in peer.state_dict().items()}
    assert all(torch.equal(loaded[n], t) for n, t in want.items())
    ours = json.loads((tmp_path / "out" / part / "config.json").read_text())
    theirs = json.loads((source / part / "config.json").read_text())
    shared = set(ours) & set(theirs) - {"axes_dims_rope", "out_channels", "is_encoder_decoder"}
    assert len(shared) >= 8 and {n: ours[n] for n in shared} == {n: theirs[n] for n in shared}


def shapes(model: torch.nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + n.removeprefix(prefix): tuple(t.shape) for n, t in model.state_dict().items()}


def full_size() -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of FLUX.1-dev's parts, from the peers' own classes on the meta device."""
    xxl = transformers.T5Config(
        d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu", vocab_size=32128
    )
    large = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    with torch.device("meta"):
        return {
            "text_encoder": shapes(transformers.CLIPTextModel(large), "text_model."),
            "text_encoder_2": shapes(transformers.T5EncoderModel(xxl)),
            "transformer": shapes(FluxTransformer2DModel(guidance_embeds=True)),
            "vae": {n: e.shape for n, e in entries(vae.vae(vae.VaeConfig())).items()},
        }


def test_full_size_shapes_imply_the_published_configs():
    """CLIP-L, T5-XXL v1.1 and FLUX.1-dev's transformer and autoencoder; and the text encoders' config.json is transformers'."""
    want = {
        "text_encoder": clip.TowerConfig(),
        "text_encoder_2": t5.T5Config(),
        "transformer": flux.FluxConfig(out_channels=64),
        "vae": vae.VaeConfig(),
    }
    parts = {}
    for name, found in full_size().items():
        kind = single.kind_of(Described(found))
        assert kind.component == name
        parts[name] = single._part(kind, Described(found), None)
        assert parts[name].config == want[name]
        checked(parts[name].network, parts[name].source)
    with torch.device("meta"):
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**parts["text_encoder"].written))
        long = transformers.T5EncoderModel(transformers.T5Config(**parts["text_encoder_2"].written))
    assert shapes(text, "text_model.") == full_size()["text_encoder"] and shapes(long) == full_size()["text_encoder_2"]
    assert (text.config.hidden_act, text.config.num_attention_heads, text.config.eos_token_id) == ("quick_gelu", 12, 2)
    assert long.config.dense_act_fn == "gelu_new" and long.config.is_gated_act and long.config.layer_norm_epsilon == 1e-6


@pytest.mark.parametrize("change", ["only embed_tokens", "with a decoder", "long"])
def test_full_size_text_encoders_in_other_forms(change):
    found = full_size()
    if change == "long":  # LongCLIP: 248 positions
        found["text_encoder"]["text_model.embeddings.position_embedding.weight"] = (248, 768)
        part = single._part(single.kind_of(Described(found["text_encoder"])), Described(found["text_encoder"]), None)
        assert part.config == clip.TowerConfig(max_position_embeddings=248)
        return
    names = found["text_encoder_2"]
    if change == "only embed_tokens":
        names["encoder.embed_tokens.weight"] = names.pop("shared.weight")
    else:
        names |= {"lm_head.weight": (32128, 4096), "decoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)}
    assert single._part(single.kind_of(Described(names)), Described(names), None).config == t5.T5Config()


@pytest.mark.filterwarnings("ignore:.*not used")
def test_a_checkpoint_of_all_parts(random_pipeline, tmp_path):
    """ComfyUI's flux1-dev-fp8.safetensors: four models behind prefixes, and another model's tensors beside them."""
    source = random_pipeline("odd")
    folders.export(source, tmp_path, "original")
    content = {f"model.diffusion_model.{n}": t for n, t in load_file(tmp_path / "flux1.safetensors").items()}
    content |= {f"vae.{n}": t for n, t in load_file(tmp_path / "ae.safetensors").items()}
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "t5xxl")):
        want = single_file(source, part, tmp_path / "x.safetensors")
        content |= {f"text_encoders.{name}.transformer.{n}": t for n, t in load_file(tmp_path / "x.safetensors").items()}
    save_file(content | {"text_encoders.clip_l.logit_scale": torch.ones(())}, tmp_path / "all.safetensors")
    base = tmp_path / "base"
    pipelines.save(pipelines.load(source), base)
    for file in FILES.values():
        save_file({n: torch.zeros_like(t) for n, t in load_file(base / file).items()}, base / file)
    with pytest.warns(UserWarning, match="1 tensors beside transformer, vae, text_encoder, text_encoder_2 are not used"):
        parts = folders.import_file(tmp_path / "all.safetensors", tmp_path / "out", base=base)
    assert parts == list(FILES)
    for part in FILES:
        want = {plain(n): t for n, t in load_file(source / FILES[part]).items()}
        same(tmp_path / "out", part, want)


def test_single_files_that_do_not_tell_or_do_not_fit(random_pipeline, tmp_path):
    source, path = random_pipeline("odd"), tmp_path / "x.safetensors"
    save_file({"model.unet.weight": torch.ones(2)}, path)
    with pytest.raises(UserError, match="not a Flux transformer .*it has model.unet.weight"):
        folders.import_file(path, tmp_path / "out")
    single_file(source, "text_encoder_2", path)
    content = load_file(path)
    content["encoder.block.0.layer.1.DenseReluDense.wi.weight"] = content.pop(
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    )
    save_file(content, path)
    with pytest.raises(UserError, match="of this kind needs 'encoder.block.0.layer.1.DenseReluDense.wi_0.weight'"):
        folders.import_file(path, tmp_path / "out")
    folders.export(source, tmp_path, "original")
    content = load_file(tmp_path / "flux1.safetensors")
    content["img_in.weight"] = torch.from_numpy(np.ones((72, 384), np.float32))
    save_file(content, path)
    config = json.loads((source / "transformer" / "config.json").read_text()) | {"in_channels": 384, "out_channels": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="384 input and 64 output channels, but its VAE gives 64"):
        folders.import_file(path, tmp_path / "out", base=source, config=tmp_path / "config.json")
    assert not (tmp_path / "out").exists()
