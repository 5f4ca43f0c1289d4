"""Merged weights: computed and written in the dtype asked for; a change that a dtype cannot hold is named."""

import json
import warnings

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import folders, lora, sources
from mvgrpo_jax.convert.__main__ import main
from mvgrpo_jax.errors import UserError

NAMES = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.ff.net.2",
    "single_transformer_blocks.0.proj_mlp",
    "norm_out.linear",
)


class Arrays(sources.Described):
    """A source of given arrays."""

    def __init__(self, arrays):
        super().__init__({n: a.shape for n, a in arrays.items()})
        self.arrays = arrays

    def dtype(self, name):
        return self.arrays[name].dtype

    def read(self, name, start=0, stop=None):
        return self.arrays[name][start:stop]


@pytest.fixture(scope="module")
def base(random_pipeline, tmp_path_factory):
    """A pipeline folder in bfloat16."""
    folder = tmp_path_factory.mktemp("bfloat16")
    main(["import", "--src", str(random_pipeline("guided")), "--dst", str(folder), "--dtype", "bfloat16"])
    return folder


@pytest.fixture(scope="module")
def small(base, tmp_path_factory):
    """(file, factors) of a LoRA whose change is about 1e-3 of the weights."""
    rng = np.random.default_rng(0)
    shapes = pipelines.describe(base)
    weights = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    factors = {}
    for name in NAMES:
        weight = weights[f"{name}.weight"].astype(np.float32)
        down, up = (rng.normal(size=s).astype(np.float32) for s in ((4, weight.shape[1]), (weight.shape[0], 4)))
        up *= 1e-3 * np.linalg.norm(weight) / np.linalg.norm(up @ down)
        factors[name] = (down, up)
    assert shapes.flux_config.num_layers == 2
    path = tmp_path_factory.mktemp("lora") / lora.DIFFUSERS_NAME
    lora.write_diffusers(path, factors)
    return path, factors


def exact(base, factors):
    """float64 sums of the bfloat16 weights and the products."""
    weights = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    out = {n: a.astype(np.float64) for n, a in weights.items()}
    for name, (down, up) in factors.items():
        out[f"{name}.weight"] += up.astype(np.float64) @ down.astype(np.float64)
    return out, {n: a.astype(np.float64) for n, a in weights.items()}


def test_a_small_change_survives_in_the_asked_dtype(base, small, tmp_path):
    path, factors = small
    flags = ["export", "--src", str(base), "--lora", str(path), "--merge", "--dtype", "float32"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main([*flags, "--dst", str(tmp_path / "diffusers")])
        main([*flags, "--dst", str(tmp_path / "original"), "--layout", "original"])
    want, before = exact(base, factors)
    got = load_file(tmp_path / "diffusers" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, weight in got.items():
        assert weight.dtype == np.float32
        change = want[name] - before[name]
        if name.removesuffix(".weight") in factors:
            assert np.linalg.norm(weight - want[name]) < 2e-4 * np.linalg.norm(change), name
            assert (weight != before[name]).mean() > 0.99
        else:
            np.testing.assert_array_equal(weight, before[name], err_msg=name)
    # The fused matrix of the original layout, of which one part in four carries an adapter.
    fused = load_file(tmp_path / "original" / "flux1.safetensors")["single_blocks.0.linear1.weight"]
    assert fused.dtype == np.float32
    parts = [f"single_transformer_blocks.0.{n}.weight" for n in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    np.testing.assert_array_equal(fused, np.concatenate([got[n] for n in parts]))


def lost(base, factors, dtype):
    """Relative norm of what rounding to a dtype takes from the change, by hand."""
    want, before = exact(base, factors)
    names = [f"{n}.weight" for n in factors]
    wrong = [want[n].astype(np.float32).astype(dtype).astype(np.float64) - want[n] for n in names]
    total = [want[n] - before[n] for n in names]
    return np.sqrt(sum((x**2).sum() for x in wrong) / sum((x**2).sum() for x in total))


@pytest.mark.parametrize(
    "asked", [[], ["--dtype", "bfloat16"], ["--dtype", "float16"]], ids=["source's", "bfloat16", "float16"]
)
def test_a_change_that_the_dtype_cannot_hold(base, small, tmp_path, asked):
    path, factors = small
    name = asked[1] if asked else "bfloat16"
    dtype = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[name]
    share = lost(base, factors, dtype)
    assert share > (0.7 if name == "bfloat16" else 0.05)
    flags = ["export", "--src", str(base), "--lora", str(path), "--merge", *asked]
    message = rf"{name} cannot hold the LoRA's change.*{share:.0%} of the change \(relative norm over 4 weights\).*float32"
    for layout in ("diffusers", "original"):
        with pytest.warns(UserWarning, match=message):
            main([*flags, "--dst", str(tmp_path / layout), "--layout", layout])


def test_a_large_change_needs_no_warning(base, small, tmp_path):
    path, factors = small
    lora.write_diffusers(tmp_path / "big.safetensors", {n: (a, b * 1000) for n, (a, b) in factors.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = folders.export(base, tmp_path / "out", "diffusers", lora_file=tmp_path / "big.safetensors")
    assert written == [tmp_path / "out"] and (tmp_path / "out" / "model_index.json").exists()


def test_values_beyond_the_dtype_are_refused():
    source = Arrays({"x.weight": np.full((2, 2), 60000, np.float32)})
    merged = lora.Merged(source, {"x": (np.full((1, 2), 100, np.float32), np.full((2, 1), 100, np.float32))}, np.float16)
    with pytest.raises(
        UserError, match="x.weight: merged values reach 7e.04, beyond the range of float16; .*bfloat16 or float32"
    ):
        merged.read("x.weight")


def test_float64_weights_stay_float64():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 5))
    factors = {"x": (rng.normal(size=(2, 5)).astype(np.float32), 1e-9 * rng.normal(size=(6, 2)).astype(np.float32))}
    got = lora.Merged(Arrays({"x.weight": weight, "x.count": np.arange(3)}), factors)
    want = weight + factors["x"][1].astype(np.float64) @ factors["x"][0]
    assert np.abs(got.read("x.weight") - want).max() < 1e-3 * np.abs(want - weight).max()
    np.testing.assert_array_equal(got.read("x.weight", 2, 5), got.read("x.weight")[2:5])
    assert got.dtype("x.weight") == np.float64 and got.dtype("x.count") == np.int64


def test_another_scale_is_another_export(random_pipeline, small, tmp_path):
    """An interrupted export is not gone on with when the config beside the weights has changed."""
    path, factors = small
    folder = tmp_path / "peft"
    folder.mkdir()
    lora.write_diffusers(folder / "adapter_model.safetensors", factors)
    content = {"r": 4, "lora_alpha": 4, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    first = [folders.identity(p) for p in lora.files_of(folder)]
    (folder / "adapter_config.json").write_text(json.dumps(content | {"lora_alpha": 16}))
    assert first != [folders.identity(p) for p in lora.files_of(folder)] and len(first) == 2
