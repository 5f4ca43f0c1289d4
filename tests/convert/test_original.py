"""The original single-file layouts against diffusers' own converters."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers, convert_ldm_vae_checkpoint
from safetensors.numpy import load_file, save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import folders
from mvgrpo_jax.convert.__main__ import main
from mvgrpo_jax.convert.naming import entries
from mvgrpo_jax.convert.original import FromOriginal, ToOriginal, flux_layout, vae_layout
from mvgrpo_jax.convert.single import open_file
from mvgrpo_jax.convert.sources import Described, TensorFiles
from mvgrpo_jax.convert.weights import checked
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import flux, vae
from tests import peers


def as_torch(path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(a.astype(np.float32)) for name, a in load_file(path).items()}


def equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(np.asarray(ours[name], np.float32), np.asarray(theirs[name], np.float32), name)


class Numbers:
    """A source of random tensors with true row counts and one column, so that full-width layouts fit in a test."""

    where = "test"

    def __init__(self, shapes):
        rng = np.random.default_rng(0)
        self.arrays = {n: rng.normal(size=(s[0], *[1] * (len(s) - 1))).astype(np.float32) for n, s in shapes.items()}

    def names(self):
        return list(self.arrays)

    def shape(self, name):
        return self.arrays[name].shape

    def dtype(self, name):
        return self.arrays[name].dtype

    def read(self, name, start=0, stop=None):
        return self.arrays[name][start:stop]


def test_diffusers_reads_our_original_transformer_as_the_same_weights():
    """Its converter has Flux's width written in, so rows are full-size here."""
    config = flux.FluxConfig(num_layers=2, num_single_layers=3)
    ours = Numbers({n: e.shape for n, e in entries(flux.flux(config)).items()})
    original = ToOriginal(ours, flux_layout(config))
    theirs = convert_flux_transformer_checkpoint_to_diffusers({n: torch.from_numpy(original.read(n)) for n in original.names()})
    equal(theirs, ours.arrays)


def test_rows_of_a_tensor_are_read_and_no_others():
    """Of a plain matrix, of one out of a fused matrix, and across the two halves that change places."""
    config = flux.FluxConfig(num_layers=1, num_single_layers=1)
    ours = Numbers({n: e.shape for n, e in entries(flux.flux(config)).items()})
    read = []

    class Counting(ToOriginal):
        def read(self, name, start=0, stop=None):
            read.append(stop - start)
            return super().read(name, start, stop)

    source, d = FromOriginal(Counting(ours, flux_layout(config)), flux_layout(config)), config.width
    for name in ("x_embedder.weight", "single_transformer_blocks.0.attn.to_v.bias", "norm_out.linear.weight"):
        for start, stop in ((0, 5), (d // 2, d), (d - 3, min(d + 4, len(ours.arrays[name])))):
            read.clear()
            np.testing.assert_array_equal(source.read(name, start, stop), ours.read(name, start, stop))
            assert sum(read) == stop - start


@pytest.mark.parametrize("variant", list(peers.VARIANTS))
def test_diffusers_reads_our_original_autoencoder_as_the_same_weights(random_pipeline, tmp_path, variant):
    source = random_pipeline(variant)
    main(["export", "--src", str(source), "--dst", str(tmp_path), "--layout", "original"])
    config = json.loads((source / "vae" / "config.json").read_text())
    theirs = convert_ldm_vae_checkpoint(as_torch(tmp_path / "ae.safetensors"), config)
    equal(theirs, load_file(source / "vae" / "diffusion_pytorch_model.safetensors"))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_original_to_folder_and_back(random_pipeline, tmp_path, prefix):
    """With the prefix that files of several models have, and another model's tensors beside ours."""
    source = random_pipeline("odd")
    folders.export(source, tmp_path, "original")
    path = tmp_path / "flux1.safetensors"
    content = {prefix + name: a for name, a in load_file(path).items()}
    save_file(content | ({"first_stage_model.x": np.ones(3, np.float32)} if prefix else {}), path)
    main(["import", "--src", str(path), "--dst", str(tmp_path / "out"), "--base", str(source)])
    for part in ("transformer", "vae"):
        file = f"{part}/diffusion_pytorch_model.safetensors"
        equal(load_file(tmp_path / "out" / file), load_file(source / file))
    assert pipelines.load(tmp_path / "out").flux_config == pipelines.load(source).flux_config


def test_float8_with_scales(random_pipeline, tmp_path):
    """Scaled float8 files: weight x scale_weight, as bfloat16; others keep their dtype."""
    source = random_pipeline("guided")
    folders.export(source, tmp_path, "original")
    path = tmp_path / "flux1.safetensors"
    content = load_file(path)
    name = "double_blocks.0.img_attn.qkv.weight"
    exact = (content[name] * 8).astype(ml_dtypes.float8_e4m3fn)
    content[name] = exact
    content[name.replace("weight", "scale_weight")] = np.asarray(0.125, np.float32)
    content["scaled_fp8"] = np.zeros(2, ml_dtypes.float8_e4m3fn)
    save_file(content, path)
    main(["import", "--src", str(path), "--dst", str(tmp_path / "out"), "--base", str(source)])
    got = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    want = (exact.astype(np.float32) * 0.125)[:32]
    assert got["transformer_blocks.0.attn.to_q.weight"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(got["transformer_blocks.0.attn.to_q.weight"].astype(np.float32), want)
    assert got["x_embedder.weight"].dtype == np.float32


def test_every_key_of_the_full_size_files():
    """FLUX.1-dev and schnell, the Flux VAE: the layouts cover every tensor once, in both directions, with true shapes."""

    for guidance in (True, False):
        config = flux.FluxConfig(guidance_embeds=guidance)
        net, layout = flux.flux(config), flux_layout(config)
        ours = {n: e.shape for n, e in entries(net).items()}
        original = ToOriginal(Described(ours), layout)
        shapes = {n: original.shape(n) for n in original.names()}
        assert len(shapes) == (780 if guidance else 776)  # the published files
        assert shapes["single_blocks.37.linear1.weight"] == (21504, 3072)
        assert shapes["double_blocks.18.txt_attn.qkv.bias"] == (9216,)
        back = FromOriginal(Described(shapes), layout)
        assert {n: back.shape(n) for n in back.names()} == ours
        checked(net, back)
    config = vae.VaeConfig()
    ours = {n: e.shape for n, e in entries(vae.vae(config)).items()}
    original = ToOriginal(Described(ours), vae_layout(config))
    shapes = {n: original.shape(n) for n in original.names()}
    assert len(shapes) == len(ours) == 244 and shapes["decoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert shapes["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)


def test_what_is_wrong_with_an_original_file(random_pipeline, tmp_path):
    source = random_pipeline("odd")
    folders.export(source, tmp_path, "original")
    path = tmp_path / "flux1.safetensors"
    content = load_file(path)
    content["double_blocks.0.img_attn.projj.weight"] = content.pop("double_blocks.0.img_attn.proj.weight")
    content["single_blocks.0.linear1.bias"] = content["single_blocks.0.linear1.bias"][:-5]
    save_file(content, path)
    with pytest.raises(UserError) as error:
        folders.import_file(path, tmp_path / "out", base=source)
    assert "missing: transformer_blocks.0.attn.to_out.0.weight" in str(error.value)
    assert "unexpected: double_blocks.0.img_attn.projj.weight" in str(error.value)
    assert "shape of single_transformer_blocks.0.proj_mlp.bias: expected [288], found [283]" in str(error.value)
    assert not (tmp_path / "out").exists()
    save_file({"unet.conv.weight": np.ones(2, np.float32)}, path)
    with pytest.raises(UserError, match="not a Flux transformer"):
        open_file(path)
    pickle = tmp_path / "flux1.ckpt"
    pickle.write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        open_file(pickle)


def test_an_interrupted_conversion_goes_on(random_pipeline, tmp_path, monkeypatch):
    """A disk that fills up in the second shard: the first one stays, no index exists, the next run writes only the rest."""
    from mvgrpo_jax.convert import writing

    source, out = random_pipeline("guided"), tmp_path / "out"
    written, real = [], writing.write_file

    def failing(path, *args, **kwargs):
        if len(written) == 1:
            raise UserError("disk full")
        written.append(path.name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(writing, "write_file", failing)
    with pytest.raises(UserError, match="disk full"):
        folders.import_folder(source, out, limit=200_000)
    assert len(list((out / "transformer").glob("*.safetensors"))) == 1
    assert not (out / "transformer" / "diffusion_pytorch_model.safetensors.index.json").exists()
    assert not (out / "model_index.json").exists()
    with pytest.raises(UserError):
        TensorFiles(out / "transformer")
    again = []
    monkeypatch.setattr(writing, "write_file", lambda path, *a, **k: again.append(path.name) or real(path, *a, **k))
    folders.import_folder(source, out, limit=200_000)
    assert written[0] not in again and len(again) > 1
    main(["verify", "--src", str(out)])
    for name, part in pipelines.load(source).params.items():
        want, got = np.asarray(jax_leaf(part)), np.asarray(jax_leaf(pipelines.load(out).params[name]))
        np.testing.assert_array_equal(want, got)
    shard = out / "transformer" / again[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(SystemExit):
        main(["verify", "--src", str(out)])


def jax_leaf(tree):
    while isinstance(tree, dict):
        tree = tree[sorted(tree)[-1]]
    return tree


def test_the_source_is_never_the_destination(random_pipeline):
    folder = str(random_pipeline("odd"))
    with pytest.raises(SystemExit):
        main(["import", "--src", folder, "--dst", folder])
