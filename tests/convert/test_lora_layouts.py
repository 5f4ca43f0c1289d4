"""LoRA files that people bring: folders, XLabs' layout, layers of text encoders, what is no LoRA of this transformer."""

import warnings

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers
from safetensors.numpy import save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import lora
from mvgrpo_jax.convert.__main__ import main
from mvgrpo_jax.errors import UserError

WIDTH = 32


@pytest.fixture(scope="module")
def ours(random_pipeline):
    return pipelines.describe(random_pipeline("guided"))


def read(path, ours):
    return lora.read(path, ours.transformer, ours.flux_config)


def pair(key: str, out: int, into: int, roles=("lora_A", "lora_B"), rank: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, *key.encode()])
    down, up = rng.normal(size=(rank, into)), rng.normal(size=(out, rank))
    return {f"{key}.{roles[0]}.weight": down.astype(np.float32), f"{key}.{roles[1]}.weight": up.astype(np.float32)}


def xlabs(prefix: str = "") -> dict[str, np.ndarray]:
    content = {}
    for i in range(2):
        for side in "12":
            stem = f"{prefix}double_blocks.{i}.processor."
            content |= pair(f"{stem}qkv_lora{side}", 3 * WIDTH, WIDTH, ("down", "up"))
            content |= pair(f"{stem}proj_lora{side}", WIDTH, WIDTH, ("down", "up"))
    content |= pair(f"{prefix}single_blocks.1.processor.qkv_lora", 3 * WIDTH, WIDTH, ("down", "up"))
    content |= pair(f"{prefix}single_blocks.1.processor.proj_lora", WIDTH, 5 * WIDTH, ("down", "up"))
    return content


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_xlabs_layout(ours, tmp_path, prefix):
    """The factors of diffusers' own converter, layer by layer."""
    content = xlabs(prefix)
    save_file(content, tmp_path / "x.safetensors")
    want = _convert_xlabs_flux_lora_to_diffusers({n: torch.from_numpy(a) for n, a in content.items()})
    factors = read(tmp_path / "x.safetensors", ours)
    names = {n.removeprefix("transformer.").split(".lora_")[0] for n in want}
    assert factors.keys() == names and len(names) == 2 * 8 + 4
    for name, (down, up) in factors.items():
        np.testing.assert_array_equal(down, want[f"transformer.{name}.lora_A.weight"].numpy(), err_msg=name)
        np.testing.assert_array_equal(up, want[f"transformer.{name}.lora_B.weight"].numpy(), err_msg=name)


def test_xlabs_layout_that_does_not_fit(ours, tmp_path):
    content = pair("double_blocks.0.processor.qkv_lora1", 2 * WIDTH, WIDTH, ("down", "up"))
    save_file(content, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"qkv_lora1: expected down \[r, 32\] and up \[96, r\], found \[4, 32\] and \[64, 4\]"):
        read(tmp_path / "x.safetensors", ours)
    save_file(pair("double_blocks.7.processor.qkv_lora1", 96, 32, ("down", "up")), tmp_path / "y.safetensors")
    with pytest.raises(UserError, match="unexpected: double_blocks.7.processor.qkv_lora1.down.weight"):
        read(tmp_path / "y.safetensors", ours)


TO_Q = pair("transformer.transformer_blocks.0.attn.to_q", WIDTH, WIDTH)
QKV = pair("lora_unet_double_blocks_0_img_attn_qkv", 3 * WIDTH, WIDTH, ("lora_down", "lora_up"))


def with_encoders(kind: str) -> dict[str, np.ndarray]:
    if kind == "diffusers":
        names = [f"text_encoder.text_model.encoder.layers.{i}.self_attn.{x}_proj" for i in range(2) for x in "qkv"]
        content = TO_Q.copy()
        for name in (*names, "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q"):
            content |= pair(name, 20, 20)
        return content
    first = {"kohya": "lora_te1_", "old kohya": "lora_te_"}[kind]
    content = QKV.copy()
    for name in (
        *(f"{first}text_model_encoder_layers_0_self_attn_{x}_proj" for x in "qkv"),
        "lora_te3_encoder_block_0_layer_0_q",
    ):
        content |= pair(name, 20, 20, ("lora_down", "lora_up")) | {f"{name}.alpha": np.ones((), np.float32)}
    return content


@pytest.mark.parametrize(
    "kind, counted, layers",
    [
        ("diffusers", "text_encoder: 6, text_encoder_2: 1", 1),
        ("kohya", "lora_te1: 3, lora_te3: 1", 3),
        ("old kohya", "lora_te: 3, lora_te3: 1", 3),
    ],
)
def test_layers_of_text_encoders_are_left_out_and_counted(ours, tmp_path, kind, counted, layers):
    content = with_encoders(kind)
    save_file(content, tmp_path / "all.safetensors")
    save_file({n: a for n, a in content.items() if n in TO_Q or n in QKV}, tmp_path / "transformer.safetensors")
    with pytest.warns(UserWarning, match=f"layers of text encoders are left out .{counted}."):
        got = read(tmp_path / "all.safetensors", ours)
    want = read(tmp_path / "transformer.safetensors", ours)
    assert got.keys() == want.keys() and len(got) == layers
    assert all(np.array_equal(x, y) for n in got for x, y in zip(got[n], want[n]))


def test_a_lora_of_text_encoders_alone(ours, tmp_path):
    save_file(pair("lora_te1_text_model_x", 20, 20, ("lora_down", "lora_up")), tmp_path / "x.safetensors")
    with pytest.warns(UserWarning), pytest.raises(UserError, match="no adapter of the transformer in it"):
        read(tmp_path / "x.safetensors", ours)


def test_folders(ours, tmp_path):
    def folder(name, *files):
        (tmp_path / name).mkdir()
        for file in files:
            save_file(TO_Q, tmp_path / name / file)
        return tmp_path / name

    for name, files in {
        "diffusers": ["pytorch_lora_weights.safetensors"],
        "ours": ["pytorch_lora_weights.safetensors", "kohya.safetensors"],
        "one file": ["flux-style.safetensors"],
    }.items():
        assert list(read(folder(name, *files), ours)) == ["transformer_blocks.0.attn.to_q"]
    with pytest.raises(UserError, match=r"both adapter_model.safetensors and pytorch_lora_weights.safetensors.*name the one"):
        read(folder("two", "pytorch_lora_weights.safetensors", "adapter_model.safetensors"), ours)
    with pytest.raises(UserError, match=r"2 safetensors files \(a.safetensors, b.safetensors\).*name the one"):
        read(folder("several", "b.safetensors", "a.safetensors"), ours)
    with pytest.raises(UserError, match="no LoRA in this folder.*found nothing"):
        read(folder("none"), ours)
    pickled = folder("pickled")
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="found adapter_model.bin; pickled weights are never loaded"):
        read(pickled, ours)
    outer = folder("outer")
    (outer / "lora").mkdir()
    save_file(TO_Q, outer / "lora" / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"no LoRA in this folder.*give .*outer/lora"):
        read(outer, ours)


@pytest.mark.parametrize(
    "key, named",
    [
        ("transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector", "DoRA"),
        ("lora_unet_double_blocks_0_img_attn_qkv.dora_scale", "DoRA"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_B.bias", "lora_bias"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lokr_w1", "LoKr"),
        ("lora_unet_double_blocks_0_img_attn_qkv.hada_w1_a", "LoHa"),
    ],
)
def test_other_methods_are_named(ours, tmp_path, key, named):
    save_file(TO_Q | {key: np.ones(4, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=f"unexpected: {key} .{named}, which is not supported"):
        read(tmp_path / "x.safetensors", ours)


def test_a_layer_given_twice(ours, tmp_path):
    again = {n.replace("lora_A", "lora_A.default"): a for n, a in TO_Q.items()}
    save_file(TO_Q | again, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="transformer_blocks.0.attn.to_q: its down matrix is given twice"):
        read(tmp_path / "x.safetensors", ours)
    save_file(TO_Q | QKV, tmp_path / "y.safetensors")
    with pytest.raises(UserError, match="transformer_blocks.0.attn.to_q: adapted twice"):
        read(tmp_path / "y.safetensors", ours)


def test_the_commands_take_them(ours, tmp_path, capsys):
    """XLabs -> kohya -> the same factors."""
    save_file(xlabs(), tmp_path / "x.safetensors")
    out = tmp_path / "kohya.safetensors"
    main(
        [
            "lora",
            "--src",
            str(tmp_path / "x.safetensors"),
            "--dst",
            str(out),
            "--layout",
            "kohya",
            "--pipeline",
            str(ours.folder),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        want, got = read(tmp_path / "x.safetensors", ours), read(out, ours)
    for name, (down, up) in want.items():
        np.testing.assert_allclose(got[name][1] @ got[name][0], up @ down, atol=1e-5, err_msg=name)
