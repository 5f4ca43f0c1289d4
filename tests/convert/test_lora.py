"""LoRA files: diffusers gives our pixels, both layouts round-trip, merging adds the product, mistakes are named."""

import json

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from safetensors.numpy import load_file, save_file

from mvgrpo_jax import pipelines, sample
from mvgrpo_jax.convert import folders, lora
from mvgrpo_jax.convert.__main__ import main
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.lora import LoraConfig, adapt
from mvgrpo_jax.models.lora import init as init_adapters

TARGETS = (
    r".*\.attn\.to_[qk]=2",
    r"transformer_blocks\.attn\.(to_v|to_out\.0|to_add_out|add_[qkv]_proj)",
    r"transformer_blocks\.(ff|ff_context)\.net\.(0\.proj|2)=3",
    r"single_transformer_blocks\.(proj_mlp|proj_out)",
    r"norm_out\.linear",
    r"x_embedder",
)
CONFIG = LoraConfig.parse(4, 6.0, TARGETS)


@pytest.fixture
def adapted(random_pipeline):
    """(pipeline, random factors of a LoRA with mixed ranks, a scale that is no power of two, and fused layers)."""
    import jax

    pipeline = pipelines.load(random_pipeline("guided"))
    fresh = init_adapters(adapt(pipeline.transformer, CONFIG), jax.random.key(0))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    random = jax.tree.unflatten(tree, [0.2 * rng.normal(size=x.shape).astype(np.float32) for x in leaves])
    return pipeline, lora.factors_of(pipeline.transformer, random, CONFIG), random


def same(a: lora.Factors, b: lora.Factors) -> None:
    """Equal products: the layouts may pad ranks with zeros and move the scale."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name][1] @ a[name][0], b[name][1] @ b[name][0], atol=1e-6, err_msg=name)


def pixels_of_diffusers(folder, lora_folder, latents):
    from diffusers import FluxPipeline

    peer = FluxPipeline.from_pretrained(folder)
    peer.set_progress_bar_config(disable=True)
    if lora_folder:
        peer.load_lora_weights(lora_folder)
    with torch.no_grad():
        return peer(
            "a small red circle",
            height=16,
            width=16,
            num_inference_steps=4,
            guidance_scale=3.5,
            max_sequence_length=24,
            latents=torch.tensor(latents),
            output_type="np",
        ).images


def test_diffusers_loads_the_lora_and_paints_our_pixels(random_pipeline, adapted, tmp_path):
    pipeline, factors, _ = adapted
    folder = random_pipeline("guided")
    lora.write_diffusers(tmp_path / lora.DIFFUSERS_NAME, factors)
    latents = np.random.default_rng(1).normal(size=(1, 16, 64)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    want = pixels_of_diffusers(folder, tmp_path, latents)
    assert np.abs(want - pixels_of_diffusers(folder, None, latents)).max() > 0.05, "the LoRA changes nothing"
    flags = f"--pipeline {folder} --height 16 --width 16 --steps 4 --max-sequence-length 24 --save-npy "
    flags += f"--latents {tmp_path}/latents.npy --out {tmp_path}/out --lora {tmp_path}"
    sample.main([*flags.split(), "--prompt", "a small red circle"])
    np.testing.assert_allclose(np.load(tmp_path / "out" / "images.npy"), want, atol=1e-3)
    # Merged weights paint the same picture without the LoRA.
    main(["export", "--src", str(folder), "--dst", str(tmp_path / "merged"), "--lora", str(tmp_path), "--merge"])
    np.testing.assert_allclose(pixels_of_diffusers(tmp_path / "merged", None, latents), want, atol=1e-3)


def test_both_layouts_round_trip(adapted, tmp_path):
    pipeline, factors, _ = adapted
    net, config = pipeline.transformer, pipeline.flux_config
    lora.write_diffusers(tmp_path / "a.safetensors", factors)
    lora.write_kohya(tmp_path / "b.safetensors", factors, config)
    same(lora.read(tmp_path / "a.safetensors", net, config), factors)
    same(lora.read(tmp_path / "b.safetensors", net, config), factors)
    for layout, source in (("kohya", "a"), ("diffusers", "b")):
        flags = ["lora", "--src", f"{tmp_path}/{source}.safetensors", "--dst", f"{tmp_path}/{source}2.safetensors"]
        main([*flags, "--layout", layout, "--pipeline", str(pipeline.folder)])
        same(lora.read(tmp_path / f"{source}2.safetensors", net, config), factors)
    tree, read_config = lora.tree_of(net, factors)
    same(lora.factors_of(net, tree, read_config), factors)
    # Other spellings in use: PEFT's adapter name, no prefix, alpha beside the factors, dotted original names.
    content = load_file(tmp_path / "a.safetensors")
    other = {n.removeprefix("transformer.").replace("lora_A", "lora_A.default"): a for n, a in content.items()}
    save_file(other, tmp_path / "c.safetensors")
    same(lora.read(tmp_path / "c.safetensors", net, config), factors)


def test_kohya_files_applied_as_comfyui_does(adapted, tmp_path):
    """W + alpha / r up @ down on the original's own matrices equals the merged weights in the original layout."""
    pipeline, factors, _ = adapted
    lora.write_diffusers(tmp_path / "lora.safetensors", factors)
    lora.write_kohya(tmp_path / "kohya.safetensors", factors, pipeline.flux_config)
    folders.export(pipeline.folder, tmp_path / "base", "original")
    folders.export(pipeline.folder, tmp_path / "merged", "original", lora_file=tmp_path / "lora.safetensors")
    base, want = (load_file(tmp_path / n / "flux1.safetensors") for n in ("base", "merged"))
    adapters, changed = load_file(tmp_path / "kohya.safetensors"), 0
    for name, weight in base.items():
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        if name.endswith(".weight") and f"{key}.alpha" in adapters:
            down, up = adapters[f"{key}.lora_down.weight"], adapters[f"{key}.lora_up.weight"]
            weight = weight + adapters[f"{key}.alpha"] / len(down) * up @ down
            changed += 1
        np.testing.assert_allclose(weight, want[name], atol=2e-6, err_msg=name)
    assert changed == len(adapters) // 3 == 2 * 8 + 2 * 2 + 2


def test_diffusers_reads_the_kohya_layout(adapted, tmp_path):
    """All but linear1 of the single blocks, in which its converter has Flux's own width written in, and the two ends: it
    loses the up matrix of img_in and does not swap the halves of the last modulation."""
    pipeline, factors, _ = adapted
    lora.write_kohya(tmp_path / "kohya.safetensors", factors, pipeline.flux_config)
    content = {n: torch.from_numpy(a) for n, a in load_file(tmp_path / "kohya.safetensors").items()}
    theirs = _convert_kohya_flux_lora_to_diffusers({n: a for n, a in content.items() if "linear1" not in n})
    names = {n.split(".lora_")[0].removeprefix("transformer.") for n in theirs}
    assert len(names) == 2 * 12 + 2 + 2 and all(n in factors for n in names)
    for name in names - {"norm_out.linear", "x_embedder"}:
        up, down = (theirs[f"transformer.{name}.lora_{x}.weight"].numpy() for x in "BA")
        np.testing.assert_allclose(up @ down, factors[name][1] @ factors[name][0], atol=1e-5, err_msg=name)


def test_a_dense_fused_layer_is_shared(adapted, tmp_path):
    """A kohya file trained on the fused layer itself: q, k and v get the same `down`, each its rows of `up`."""
    pipeline, _, _ = adapted
    rng = np.random.default_rng(2)
    down, up = rng.normal(size=(6, 32)).astype(np.float32), rng.normal(size=(96, 6)).astype(np.float32)
    key = "lora_unet_double_blocks_1_img_attn_qkv"
    content = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": np.float32(3.0)}
    save_file({n: np.asarray(a) for n, a in content.items()}, tmp_path / "x.safetensors")
    got = lora.read(tmp_path / "x.safetensors", pipeline.transformer, pipeline.flux_config)
    assert sorted(got) == [f"transformer_blocks.1.attn.to_{x}" for x in "kqv"]
    for i, x in enumerate("qkv"):
        a, b = got[f"transformer_blocks.1.attn.to_{x}"]
        np.testing.assert_allclose(b @ a, 0.5 * up[32 * i : 32 * i + 32] @ down, atol=1e-5)
    tree, config = lora.tree_of(pipeline.transformer, got)
    assert tree["transformer_blocks"]["attn"]["to_q"]["lora_a"].shape == (2, 32, 6)
    assert not tree["transformer_blocks"]["attn"]["to_q"]["lora_b"][0].any(), "block 0 has no adapter in the file"
    assert config.rank("transformer_blocks.attn.to_q") == 6


def test_training_starts_from_a_file(adapted):
    """The file's function with the run's scale and more rank; a run that leaves the file's layers out is refused."""
    pipeline, factors, _ = adapted
    net = pipeline.transformer
    loaded, _ = lora.tree_of(net, factors)
    import jax

    wide = LoraConfig.parse(8, 4.0, (*TARGETS[1:], r".*\.attn\.to_[qk]", r"context_embedder"))
    fresh = init_adapters(adapt(net, wide), jax.random.key(3))
    started = lora.factors_of(net, lora.start_from(fresh, wide, loaded, "file"), wide)
    assert not started.pop("context_embedder")[1].any()
    same(started, factors)
    narrow = LoraConfig.parse(2, 4.0, TARGETS)
    with pytest.raises(UserError, match=r"file: rank 4 at .*, but config.lora gives it 2; raise config.lora.rank"):
        lora.start_from(init_adapters(adapt(net, narrow), jax.random.key(3)), narrow, loaded, "file")
    fewer = LoraConfig.parse(8, 4.0, TARGETS[:5])
    with pytest.raises(UserError, match="adapts x_embedder, which config.lora.targets leaves out"):
        lora.start_from(init_adapters(adapt(net, fewer), jax.random.key(3)), fewer, loaded, "file")


def damaged(content, what):
    name = "transformer.transformer_blocks.0.attn.to_q"
    if what == "alpha":
        content[f"{name}.alpha"] = np.asarray(-1.0, np.float32)
    elif what == "no up":
        del content[f"{name}.lora_B.weight"]
    elif what == "width":
        content[f"{name}.lora_A.weight"] = np.ones((2, 77), np.float32)
    elif what == "name":
        content["transformer.transformer_blocks.0.attn.to_qq.lora_A.weight"] = content.pop(f"{name}.lora_A.weight")
    elif what == "other model":
        content = {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": np.ones((2, 3), np.float32)}
    elif what == "dora":
        content[f"{name}.dora_scale"] = np.ones(3, np.float32)
    return content


@pytest.mark.parametrize(
    "what, message",
    [
        ("alpha", r"transformer_blocks.0.attn.to_q: alpha must be one positive number, found -1.0"),
        ("no up", r"transformer_blocks.0.attn.to_q: has no up matrix"),
        ("width", r"expected down \[r, 32\] and up \[32, r\], found \[2, 77\] and \[32, 2\]"),
        ("name", r"unexpected: .*to_qq.lora_A.weight. Did you mean 'transformer_blocks.0.attn.to_q'"),
        ("other model", r"not a LoRA of this transformer .1 problems.; check which model it was made for"),
        ("dora", r"unexpected: .*dora_scale"),
    ],
)
def test_what_is_wrong_with_a_lora(adapted, tmp_path, what, message):
    pipeline, factors, _ = adapted
    lora.write_diffusers(tmp_path / "x.safetensors", factors)
    save_file(damaged(load_file(tmp_path / "x.safetensors"), what), tmp_path / "y.safetensors")
    with pytest.raises(UserError, match=message):
        lora.read(tmp_path / "y.safetensors", pipeline.transformer, pipeline.flux_config)


def test_pickled_and_missing_files(adapted, tmp_path):
    pipeline, _, _ = adapted
    (tmp_path / "x.pt").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        lora.read(tmp_path / "x.pt", pipeline.transformer, pipeline.flux_config)
    with pytest.raises(UserError, match="no such file"):
        lora.read(tmp_path / "y.safetensors", pipeline.transformer, pipeline.flux_config)


def test_the_header_tells_peft_every_rank(adapted, tmp_path):
    from mvgrpo_jax.convert.sources import metadata

    _, factors, _ = adapted
    lora.write_diffusers(tmp_path / "x.safetensors", factors, notes={"step": "3"})
    notes = metadata(tmp_path / "x.safetensors")
    peft = json.loads(notes["lora_adapter_metadata"])
    assert notes["step"] == "3" and peft["transformer.r"] == 4 == peft["transformer.lora_alpha"]
    assert peft["transformer.rank_pattern"]["transformer_blocks.0.attn.to_q"] == 2
