"""Weight files that are not read, told apart by their first bytes and their tensors' names, with what to use instead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

PICKLES = (".bin", ".pt", ".ckpt", ".pth", ".pkl")
REFUSED = "pickled weights are never loaded, because unpickling runs code: save them again with safe_serialization=True"
INSTEAD = "quantised weights are not read; use the model's float32, bfloat16 or float16 safetensors, or scaled float8 ones"
_DEQUANTISE = f"{INSTEAD}, or load them with diffusers or transformers, call model.dequantize() and save_pretrained"

# What a file begins with -> what it is, and what to do.
_MAGIC = {
    b"GGUF": f"a GGUF file; {INSTEAD}",
    b"version https://git-lfs": "a Git LFS pointer, not the weights; run `git lfs pull` in its repository",
    b"PK\x03\x04": f"a pickled checkpoint (a zip archive); {REFUSED}",
    b"\x80\x02": f"a pickled checkpoint; {REFUSED}",
    b"<!DOCTYPE": "a web page, not weights; download the file again (the page may ask to sign in)",
    b"<html": "a web page, not weights; download the file again (the page may ask to sign in)",
}

# Tensor names that only one way of quantising leaves -> its name, and what to do. The first match counts.
_KEYS = (
    (r".*\.quant_state\.bitsandbytes__(nf4|fp4)", r"bitsandbytes \1", _DEQUANTISE),
    (r".*\.(absmax|quant_map|nested_absmax|nested_quant_map)", "bitsandbytes 4-bit (NF4 or FP4)", _DEQUANTISE),
    (r".*\.(SCB|weight_format)", "bitsandbytes 8-bit", _DEQUANTISE),
    (r".*\.(wscales|smooth_factor|smooth_factor_orig|wtscale|wcscales)", "SVDQuant (Nunchaku)", INSTEAD),
    (r".*\.g_idx", "GPTQ", INSTEAD),
    (r".*\.(qweight|qzeros)", "GPTQ or AWQ", INSTEAD),
    (r".*\.weight\._(data|scale|shift)", "Quanto", _DEQUANTISE),
    (r".*\.W_q", "HQQ", INSTEAD),
    (r".*\.weight_packed", "compressed-tensors (packed integers)", INSTEAD),
    (r".*\.weight_scale_2", "NVFP4", INSTEAD),
    (r".*\.weight_scale_inv", "block-scaled float8 (weight_scale_inv)", _DEQUANTISE),
    (r".*\.scales", "integers with group scales (GPTQ, AWQ or MLX)", INSTEAD),
)
_DTYPES = {
    "F8_E8M0": "MXFP8 or MXFP4 weights",
    "F4": "4-bit floats",
    "F6_E2M3": "6-bit floats",
    "F6_E3M2": "6-bit floats",
    "I8": "8-bit integers",
}


def foreign(path: Path) -> str | None:
    """What a file is when its first bytes are not those of safetensors, and what to do; None where they tell nothing."""
    with path.open("rb") as file:
        start = file.read(32)
    return next((told for magic, told in _MAGIC.items() if start.startswith(magic)), None)


def quantised(names: Iterable[str], dtypes: Iterable[str] = ()) -> str | None:
    """The format of quantised weights, with one tensor that shows it and what to do; None for weights that are read.

    names: of the tensors. dtypes: as a safetensors header writes them.
    """
    names = sorted(names)
    for pattern, told, advice in _KEYS:
        for name in names:
            if match := re.fullmatch(pattern, name):
                return f"{match.expand(told).replace('nf4', 'NF4').replace('fp4', 'FP4')} weights ({name}); {advice}"
    kinds = sorted(set(dtypes) & _DTYPES.keys())
    return f"{_DTYPES[kinds[0]]} ({kinds[0]}); {INSTEAD}" if kinds else None
