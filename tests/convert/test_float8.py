"""Scaled float8 files in every spelling, against the weights that torch dequantises by hand."""

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import folders, import_params
from mvgrpo_jax.convert.naming import entries
from mvgrpo_jax.convert.sources import TensorFiles
from mvgrpo_jax.convert.weights import ParamsSource
from mvgrpo_jax.errors import UserError

NOTE = {"format": "float8_e4m3fn"}


def note(content) -> torch.Tensor:
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def quantise(weight: torch.Tensor, blocks: tuple[int, ...], kind=torch.float8_e4m3fn) -> tuple[torch.Tensor, torch.Tensor]:
    """(float8 weight, scale [*blocks]) and nothing else: each block's largest value becomes the largest float8."""
    rows, columns = (w // b for w, b in zip(weight.shape, blocks))
    grid = weight.float().reshape(blocks[0], rows, blocks[1], columns)
    scale = grid.abs().amax((1, 3)) / torch.finfo(kind).max
    return (grid / scale[:, None, :, None]).reshape(weight.shape).to(kind), scale


def by_hand(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    rows, columns = (w // b for w, b in zip(weight.shape, scale.shape))
    whole = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return (weight.float() * whole).to(torch.bfloat16)


def scaled_file(content: dict, spelling: str) -> tuple[dict, dict]:
    """(tensors of a scaled float8 file, the weights that they mean): every second matrix is float8."""
    out, want = {}, {}
    chosen = sorted(n for n, t in content.items() if t.ndim == 2)[::2]
    for name, tensor in content.items():
        stem = name.removesuffix(".weight")
        if name not in chosen:
            out[name] = want[name] = tensor.to(torch.bfloat16)
            continue
        blocks = {"rows": (tensor.shape[0], 1), "row vector": (tensor.shape[0], 1), "blocks": (2, 2)}.get(spelling, (1, 1))
        kind = torch.float8_e5m2 if spelling == "e5m2" else torch.float8_e4m3fn
        out[name], scale = quantise(tensor, blocks, kind)
        want[name] = by_hand(out[name], scale)
        scale = scale.reshape({"rows": (-1, 1), "row vector": (-1,), "blocks": (2, 2), "one": (1,)}.get(spelling, ()))
        if spelling in ("old", "one", "e5m2"):
            out |= {f"{stem}.scale_weight": scale, f"{stem}.scale_input": torch.tensor(0.7)}
        else:
            out[f"{stem}.weight_scale"] = scale
            out |= {f"{stem}.input_scale": torch.tensor(0.7)} if spelling != "no input" else {}
            out |= {f"{stem}.comfy_quant": note(NOTE | {"full_precision_matrix_mult": True})}
    out |= {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)} if spelling in ("old", "one", "e5m2") else {}
    return out, want


@pytest.mark.parametrize("spelling", ["old", "one", "e5m2", "new", "no input", "rows", "row vector", "blocks"])
def test_a_folder_of_scaled_float8(random_pipeline, tmp_path, spelling):
    source = random_pipeline("guided")
    net = pipelines.describe(source).transformer
    content, want = scaled_file(load_file(source / "transformer" / "diffusion_pytorch_model.safetensors"), spelling)
    assert sum(t.dtype.itemsize == 1 and t.dtype.is_floating_point for t in content.values()) > 20
    save_file(content, tmp_path / "diffusion_pytorch_model.safetensors")
    got = ParamsSource(net, import_params(net, tmp_path))
    for name in entries(net):
        np.testing.assert_array_equal(got.read(name).astype(np.float32), want[name].float().numpy(), name)


@pytest.mark.parametrize("spelling", ["old", "rows", "blocks"])
def test_rows_of_a_scaled_weight_are_scaled_as_the_whole(tmp_path, spelling):
    """Devices of a mesh read parts: rows 3 .. 8 of each weight."""
    content, want = scaled_file({"a.weight": torch.randn(12, 8), "b.weight": torch.randn(10, 6)}, spelling)
    save_file(content, tmp_path / "x.safetensors")
    files = TensorFiles(tmp_path / "x.safetensors")
    assert set(files.names()) == {"a.weight", "b.weight"}
    for name in files.names():
        np.testing.assert_array_equal(files.read(name, 3, 9).astype(np.float32), want[name][3:9].float().numpy())


@pytest.mark.nightly
def test_an_original_single_file_of_scaled_float8(random_pipeline, tmp_path):
    """ComfyUI's own layout: the fused names, the prefix, and the marker behind the prefix. Rows of a scale are split too."""
    source = random_pipeline("odd")
    folders.export(source, tmp_path, "original")
    for spelling in ("old", "rows"):
        content, want = scaled_file(load_file(tmp_path / "flux1.safetensors"), spelling)
        save_file(want, tmp_path / "plain.safetensors")
        save_file({f"model.diffusion_model.{n}": t for n, t in content.items()}, tmp_path / "scaled.safetensors")
        for name in ("plain", "scaled"):
            folders.import_file(tmp_path / f"{name}.safetensors", tmp_path / f"{name}-{spelling}", base=source)
        one, two = (
            load_file(tmp_path / f"{name}-{spelling}" / "transformer" / "diffusion_pytorch_model.safetensors")
            for name in ("plain", "scaled")
        )
        assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def test_what_is_wrong_with_scales(tmp_path):
    path = tmp_path / "x.safetensors"
    weight, scale = quantise(torch.randn(6, 4), (1, 1))

    def error(extra: dict, weight=weight) -> str:
        save_file({"a.weight": weight} | extra, path)
        with pytest.raises(UserError) as error:
            TensorFiles(path)
        return str(error.value)

    assert "a.weight has two scales" in error({"a.scale_weight": scale, "a.weight_scale": scale.clone()})
    assert "[5], which does not divide the weight's [6, 4]" in error({"a.weight_scale": torch.ones(5)})
    assert "a.comfy_quant says int8_tensorwise" in error(
        {"a.weight_scale": scale, "a.comfy_quant": note({"format": "int8_tensorwise"})}
    )
    rotated = note(NOTE | {"convrot": True})
    assert "with rotated weights" in error({"a.weight_scale": scale, "a.comfy_quant": rotated})
    assert "does not name a format" in error({"a.comfy_quant": torch.tensor([1, 2], dtype=torch.uint8)})
    assert "integer quantisation" in error({"a.weight_scale": scale}, weight.view(torch.uint8))
    save_file({"b.weight_scale": scale, "b.input_scale": scale.clone()}, path)  # of no weight: reported as unexpected keys
    assert set(TensorFiles(path).names()) == {"b.weight_scale", "b.input_scale"}


def test_leaves_keep_their_dtype_beside_float8(tmp_path):
    save_file({"a.weight": torch.ones(2, 2, dtype=torch.float8_e4m3fn), "b.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    files = TensorFiles(tmp_path / "x.safetensors")
    assert [str(files.dtype(n)) for n in ("a.weight", "b.weight")] == ["bfloat16", "float32"]
    assert jax.numpy.asarray(files.read("a.weight")).dtype == "bfloat16"
