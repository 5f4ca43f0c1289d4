"""Weight files that are not read are named, with what to use instead."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert.__main__ import main
from mvgrpo_jax.convert.sources import TensorFiles
from mvgrpo_jax.errors import UserError


def test_gguf(tmp_path, capsys):
    """Under any name, as a single file or alone in a component's folder; no traceback."""
    for name in ("flux1-dev-Q4_0.gguf", "flux1-dev.safetensors"):
        (tmp_path / name).write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(200))
        with pytest.raises(SystemExit):
            main(["import", "--src", str(tmp_path / name), "--dst", str(tmp_path / "out")])
        message = capsys.readouterr().err
        assert "a GGUF file" in message and "bfloat16" in message and "copy it again" not in message
    (tmp_path / "flux1-dev.safetensors").unlink()
    with pytest.raises(UserError, match="GGUF files are not read"):
        TensorFiles(tmp_path)


@pytest.mark.parametrize(
    "start, told",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 23802932552\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "pickled weights are never loaded"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    ],
)
def test_files_that_only_have_the_name_of_safetensors(tmp_path, start, told):
    (tmp_path / "model.safetensors").write_bytes(start)
    with pytest.raises(UserError, match=told):
        TensorFiles(tmp_path)


def quantised(kind: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """A linear layer as each way of quantising stores it (names as their own libraries write them)."""
    packed = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
    state = {"x.weight.absmax": torch.ones(4), "x.weight.quant_map": torch.ones(16)}
    return {
        "bitsandbytes NF4": {"x.weight": packed, "x.weight.quant_state.bitsandbytes__nf4": packed.flatten()[:9], **state},
        "bitsandbytes FP4": {"x.weight": packed, "x.weight.quant_state.bitsandbytes__fp4": packed.flatten()[:9], **state},
        "bitsandbytes 4-bit": {"x.weight": packed, **state},
        "bitsandbytes 8-bit": {"x.weight": weight.to(torch.int8), "x.SCB": torch.ones(8), "x.weight_format": packed[0]},
        "GPTQ": {
            "x.qweight": packed.int(),
            "x.qzeros": packed.int(),
            "x.scales": torch.ones(2),
            "x.g_idx": torch.ones(8).int(),
        },
        "AWQ": {"x.qweight": packed.int(), "x.qzeros": packed.int(), "x.scales": torch.ones(2).half()},
        "MLX": {"x.weight": packed.to(torch.uint32), "x.scales": torch.ones(2), "x.biases": torch.ones(2)},
        "SVDQuant": {"x.qweight": packed.to(torch.int8), "x.wscales": torch.ones(2), "x.smooth_factor": torch.ones(8)},
        "Quanto": {
            "x.weight._data": weight.to(torch.int8),
            "x.weight._scale": torch.ones(8, 1),
            "x.input_scale": torch.ones(1),
        },
        "NVFP4": {"x.weight": packed, "x.weight_scale": torch.ones(8), "x.weight_scale_2": torch.ones(1)},
        "8-bit integers": {"x.weight": weight.to(torch.int8), "x.weight_scale": torch.ones(1)},
        "block-scaled float8": {"x.weight": weight.to(torch.float8_e4m3fn), "x.weight_scale_inv": torch.ones(1, 1)},
    }[kind]


KINDS = ["bitsandbytes NF4", "bitsandbytes FP4", "bitsandbytes 4-bit", "bitsandbytes 8-bit", "GPTQ", "AWQ", "MLX", "SVDQuant"]


@pytest.mark.parametrize("kind", [*KINDS, "Quanto", "NVFP4", "8-bit integers", "block-scaled float8"])
def test_quantised_weights_are_named(random_pipeline, tmp_path, kind):
    """One quantised layer among a transformer's others: not a list of unexpected keys, but the format's name."""
    source = random_pipeline("guided")
    content = load_file(source / "transformer" / "diffusion_pytorch_model.safetensors")
    layer = "transformer_blocks.0.attn.to_q"
    weight = content.pop(f"{layer}.weight")
    content |= {layer + name.removeprefix("x"): t.clone() for name, t in quantised(kind, weight).items()}
    save_file(content, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError) as error:
        import_params(pipelines.describe(source).transformer, tmp_path)
    assert kind in str(error.value) and "quantised weights are not read; use" in str(error.value)
    assert "unexpected" not in str(error.value)
