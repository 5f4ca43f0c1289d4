"""Import and export: bit for bit, one file or shards, and an error that says what is wrong with a folder."""

import json
import re
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert.naming import entries
from mvgrpo_jax.errors import UserError
from tests import peers


def tensors(folder) -> dict[str, np.ndarray]:
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            out |= {name: file.get_tensor(name) for name in file.keys()}
    return out


@pytest.fixture
def transformer(random_pipeline, tmp_path):
    """(network, a copy of the transformer's folder that a test may damage)."""
    source = random_pipeline("odd")
    folder = tmp_path / "transformer"
    shutil.copytree(source / "transformer", folder)
    return pipelines.load(source).transformer, folder


@pytest.mark.parametrize("variant", list(peers.VARIANTS))
def test_import_then_export_is_the_same_folder(random_pipeline, tmp_path, variant):
    source = random_pipeline(variant)
    pipelines.save(pipelines.load(source), tmp_path / "out")
    for name in pipelines.WEIGHTS:
        want, got = tensors(source / name), tensors(tmp_path / "out" / name)
        # transformers 5 drops 'text_model.' from CLIPTextModel's names; we write them as Flux's own folder has them
        got = {n.removeprefix("text_model.") if n not in want else n: a for n, a in got.items()}
        assert got.keys() == want.keys()
        for key in want:
            assert got[key].dtype == want[key].dtype and got[key].tobytes() == want[key].tobytes(), key
    for file in ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"):
        assert json.loads((tmp_path / "out" / file).read_text()) == json.loads((source / file).read_text())


def test_diffusers_loads_what_we_export(random_pipeline, tmp_path):
    from diffusers import FluxPipeline

    source = random_pipeline("guided")
    pipelines.save(pipelines.load(source), tmp_path)
    ours, theirs = FluxPipeline.from_pretrained(tmp_path), FluxPipeline.from_pretrained(source)
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        a, b = getattr(ours, part).state_dict(), getattr(theirs, part).state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_shards_with_an_index(transformer, tmp_path):
    net, folder = transformer
    whole = import_params(net, folder)
    items = sorted(tensors(folder).items())
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    index = {}
    for number in range(3):
        part = dict(items[number::3])
        save_file(part, folder / f"part-{number}.safetensors")
        index |= dict.fromkeys(part, f"part-{number}.safetensors")
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    sharded = import_params(net, folder)
    np.testing.assert_array_equal(whole["x_embedder"]["kernel"], sharded["x_embedder"]["kernel"])
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(UserError, match="names files that are not there: part-1.safetensors"):
        import_params(net, folder)


def test_leaves_are_placed_on_the_mesh(random_pipeline):
    """2 x 2 x 2 devices: the same values, sharded by the rules."""
    from mvgrpo_jax.parallel import rules
    from mvgrpo_jax.parallel.mesh import make_mesh

    folder = random_pipeline("guided")
    net = pipelines.describe(folder).transformer
    whole = import_params(net, folder / "transformer")
    mesh = make_mesh(2, 2, 2)
    placed = import_params(net, folder / "transformer", sharding=rules.placements(net, mesh))
    want = rules.parameter_shardings(net.shapes, mesh, tuple(net.stacks))
    for a, b, where in zip(jax.tree.leaves(placed), jax.tree.leaves(whole), jax.tree.leaves(want)):
        assert a.sharding == where
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_bfloat16_stays_bit_for_bit(transformer):
    net, folder = transformer
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({k: v.astype(ml_dtypes.bfloat16) for k, v in tensors(folder).items()}, path)
    kernel = import_params(net, folder)["x_embedder"]["kernel"]
    assert kernel.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(np.asarray(kernel).T, tensors(folder)["x_embedder.weight"])


def test_every_problem_is_listed(transformer):
    net, folder = transformer
    path = folder / "diffusion_pytorch_model.safetensors"
    content = tensors(folder)
    content["x_embeder.weight"] = content.pop("x_embedder.weight")
    content["proj_out.bias"] = content["proj_out.bias"][:-1]
    save_file(content, path)
    with pytest.raises(UserError) as error:
        import_params(net, folder)
    message = str(error.value)
    assert "3 problems" in message and "missing: x_embedder.weight" in message
    assert "unexpected: x_embeder.weight. Did you mean 'x_embedder.weight'?" in message
    assert "shape of proj_out.bias: expected [64], found [63]" in message


@pytest.mark.parametrize("kept", [100, 5000])
def test_a_file_cut_short(transformer, kept):
    net, folder = transformer
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=f"not a complete safetensors file .{kept} bytes"):
        import_params(net, folder)


def test_pickles_are_refused(transformer):
    net, folder = transformer
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        import_params(net, folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="model_index.json: no such file"):
        pipelines.load(tmp_path / "nowhere")


def test_a_full_disk_leaves_nothing_that_looks_finished(random_pipeline, tmp_path, monkeypatch):
    from mvgrpo_jax.convert import writing

    pipeline = pipelines.load(random_pipeline("narrow"))
    pipelines.save(pipeline, tmp_path / "out")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(writing.os, "fsync", lambda handle: (_ for _ in ()).throw(full))
    with pytest.raises(UserError, match="No space left on device.*free some space"):
        pipelines.save(pipeline, tmp_path / "out")
    assert not (tmp_path / "out" / "model_index.json").exists()
    assert not [p for p in (tmp_path / "out").rglob(".*")]


@pytest.mark.nightly
def test_a_conversion_that_runs_out_of_room_goes_on_later(random_pipeline, tmp_path):
    """The system itself refuses to write further (a limit on the size of files), in the middle of a file."""
    source, out = random_pipeline("narrow"), tmp_path / "out"
    command = ["import", "--src", str(source), "--dst", str(out)]
    room = max(p.stat().st_size for p in source.rglob("tokenizer*.json"))
    assert room < (source / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
    limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
    limited += "from mvgrpo_jax.convert.__main__ import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "transformer/diffusion_pytorch_model.safetensors: could not be written" in done.stderr
    assert "File too large" in done.stderr and "free some space" in done.stderr
    assert not (out / "model_index.json").exists() and not list(out.rglob("*.part*"))
    for path in out.rglob("*.safetensors"):  # whatever has its final name is whole
        with safe_open(path, "np") as file:
            assert all(file.get_tensor(n).size for n in file.keys())
    subprocess.run([sys.executable, "-m", "mvgrpo_jax.convert", *command], check=True, capture_output=True)
    want, got = tensors(source / "transformer"), tensors(out / "transformer")
    assert got.keys() == want.keys() and all(np.array_equal(got[n], want[n]) for n in want)


def test_full_size_flux_has_diffusers_names():
    """FLUX.1-dev's transformer: every tensor name and shape of diffusers' own class, on the meta device."""
    from diffusers import FluxTransformer2DModel

    from mvgrpo_jax.models import flux

    with torch.device("meta"):
        peer = FluxTransformer2DModel(guidance_embeds=True)
    ours = {name: entry.shape for name, entry in entries(flux.flux(flux.FluxConfig())).items()}
    assert ours == {name: tuple(t.shape) for name, t in peer.state_dict().items()}


def test_full_size_text_encoders_have_transformers_names():
    """T5-XXL v1.1's encoder and CLIP-L's text tower as FLUX.1-dev has them: 219 and 196 tensors, and nothing is left over."""
    import transformers

    from mvgrpo_jax.convert.sources import Described
    from mvgrpo_jax.convert.weights import checked
    from mvgrpo_jax.models import clip, t5

    xxl = transformers.T5Config(
        d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu", vocab_size=32128
    )
    large = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    with torch.device("meta"):
        peers = {
            "t5": (transformers.T5EncoderModel(xxl), t5.t5(t5.T5Config()), 219),
            "clip": (transformers.CLIPTextModel(large), clip.clip_text(clip.TowerConfig()), 196),
        }
    for name, (peer, net, count) in peers.items():
        # transformers 5 leaves 'text_model.' out of names that every published file has
        prefix = "text_model." if name == "clip" else ""
        theirs = {prefix + n.removeprefix(prefix): tuple(t.shape) for n, t in peer.state_dict().items()}
        tied = theirs.pop("encoder.embed_tokens.weight", None)
        assert tied in (None, theirs.get("shared.weight"))
        ours = {n: entry.shape for n, entry in entries(net).items()}
        assert len(ours) == count and ours == theirs
        # Files that repeat the tied table, or hold the index buffer of old versions, are read all the same; others are not.
        extra = {"t5": {"encoder.embed_tokens.weight": (32128, 4096)}, "clip": {"text_model.embeddings.position_ids": (1, 77)}}
        checked(net, Described(theirs | extra[name]))
        lost = next(iter(theirs))
        with pytest.raises(UserError, match=rf"missing: {re.escape(lost)}\n.*x\. Did you mean '{re.escape(lost)}'"):
            checked(net, Described({n + "x" * (n == lost): s for n, s in theirs.items()}))
