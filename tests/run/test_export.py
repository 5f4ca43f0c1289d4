"""What a run writes of adapters, and what it starts from: no training, the functions that a run calls."""

import json
import warnings

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import lora
from mvgrpo_jax.parallel.hosts import to_host
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.run import export
from mvgrpo_jax.run.programs import Programs
from tests.runs import small_config

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def run():
    """(config, programs, base in bfloat16) of a run that trains adapters."""
    config = small_config()
    config.lora.update(rank=4, alpha=2.0)
    config.train.frozen_dtype, config.export.kind = "bfloat16", "pipeline"
    dtypes = dict.fromkeys(pipelines.WEIGHTS, ml_dtypes.bfloat16)
    mesh = make_mesh()
    pipeline = pipelines.load(config.pipeline, dtype=dtypes, mesh=mesh)
    programs = Programs.build(config, pipeline, mesh)
    return config, programs, pipeline.params.pop("transformer")


def test_a_merged_pipeline_in_the_asked_dtype(run, tmp_path):
    """A change of about 1e-3 of a bfloat16 base, written as float32, equals the float64 sum; as bfloat16 it is mostly lost,
    and the export says so."""
    config, programs, base = run
    rng = np.random.default_rng(0)

    def small(x):
        return jax.device_put((5e-3 * rng.normal(size=x.shape)).astype(np.float32), x.sharding)

    trained = jax.tree.map(small, programs.adapters())
    factors = lora.factors_of(programs.pipeline.transformer, jax.tree.map(to_host, trained), programs.lora)
    written = {}
    for dtype in ("float32", ""):
        config.export.dtype = dtype
        with warnings.catch_warnings(record=True) as seen, jax.set_mesh(programs.mesh):
            warnings.simplefilter("always")
            folder = export.write(config, programs, trained, base, 1, tmp_path / (dtype or "own"))
        said = [str(w.message) for w in seen if "cannot hold the LoRA's change" in str(w.message)]
        assert bool(said) == (not dtype) and all("bfloat16" in s for s in said)
        written[dtype] = load_file(folder / WEIGHTS)
    before = load_file(pipelines.EMBEDDED / WEIGHTS)
    for name, (down, up) in factors.items():
        weight = before[f"{name}.weight"].astype(ml_dtypes.bfloat16).astype(np.float64)
        change = up.astype(np.float64) @ down
        got, rounded = written["float32"][f"{name}.weight"], written[""][f"{name}.weight"]
        assert got.dtype == np.float32 and rounded.dtype == ml_dtypes.bfloat16
        assert np.linalg.norm(got - weight - change) < 1e-2 * np.linalg.norm(change), name
        assert np.linalg.norm(rounded.astype(np.float64) - weight - change) > 0.3 * np.linalg.norm(change), name


def test_a_run_starts_from_a_folder_of_peft(run, tmp_path):
    """The adapters that training begins with do what PEFT's folder does, alpha and rank from its config."""
    config, programs, _ = run
    name, rng = "transformer_blocks.1.attn.to_q", np.random.default_rng(0)
    width = programs.pipeline.flux_config.width
    down, up = rng.normal(size=(2, width)).astype(np.float32), rng.normal(size=(width, 2)).astype(np.float32)
    weights = {f"base_model.model.{name}.lora_{x}.weight": a for x, a in (("A", down), ("B", up))}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    options = {"peft_type": "LORA", "r": 2, "lora_alpha": 5, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(options))
    config.lora.start = str(tmp_path)
    started = jax.tree.map(to_host, export.starting_adapters(config, programs))
    factors = lora.factors_of(programs.pipeline.transformer, started, programs.lora)
    np.testing.assert_allclose(factors[name][1] @ factors[name][0], 5 / 2**0.5 * up @ down, rtol=1e-5, atol=1e-5)
    others = [n for n, (_, b) in factors.items() if n != name and b.any()]
    assert not others
