"""text -> latents -> picture against diffusers' own FluxPipeline, and the command line."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvgrpo_jax import sample
from tests import peers

pytestmark = pytest.mark.slow

PROMPTS = ["a small red circle top-left", "two shapes on a blue background"]


@pytest.mark.parametrize(
    "variant, height, width, steps, guidance, length",
    [
        ("guided", 16, 24, 5, 3.5, 24),
        pytest.param("odd", 32, 16, 4, 1.0, 12, marks=pytest.mark.nightly),
        ("narrow", 12, 12, 3, 2.0, 40),
    ],
)
def test_pictures_are_diffusers_pictures(random_pipeline, tmp_path, variant, height, width, steps, guidance, length):
    from diffusers import FluxPipeline

    folder = random_pipeline(variant)
    peer = FluxPipeline.from_pretrained(folder)
    peer.set_progress_bar_config(disable=True)
    side = 2 ** len(peers.VARIANTS[variant]["vae"]["block_out_channels"])
    tokens = (height // side) * (width // side)
    latents = np.random.default_rng(0).normal(size=(2, tokens, 64)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    with torch.no_grad():
        want = peer(
            PROMPTS,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=length,
            latents=torch.tensor(latents),
            output_type="np",
        ).images
    flags = f"--pipeline {folder} --height {height} --width {width} --steps {steps} --guidance {guidance} "
    flags += f"--max-sequence-length {length} --latents {tmp_path}/latents.npy --save-npy --out {tmp_path}/out"
    sample.main([*flags.split(), *(a for p in PROMPTS for a in ("--prompt", p))])
    got = np.load(tmp_path / "out" / "images.npy")
    assert got.shape == want.shape and got.dtype == np.float32
    assert got.std() > 0.01, "the random pipeline paints a flat picture; the comparison would mean nothing"
    np.testing.assert_allclose(got, want, atol=1e-3)
    png = np.asarray(Image.open(tmp_path / "out" / "0001.png"), np.float32) / 255
    np.testing.assert_allclose(png, got[1], atol=0.5 / 255 + 1e-6)
    assert (tmp_path / "out" / "sheet.png").exists()


def test_a_picture_does_not_depend_on_its_batch(random_pipeline, tmp_path):
    common = ["--pipeline", str(random_pipeline("narrow")), "--steps", "2", "--save-npy", "--seed", "3"]
    prompts = [a for p in [*PROMPTS, "a cross"] for a in ("--prompt", p)]
    for batch in ("1", "2"):
        sample.main([*common, *prompts, "--batch", batch, "--out", str(tmp_path / batch)])
    one, two = (np.load(tmp_path / b / "images.npy") for b in ("1", "2"))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.nightly
def test_a_picture_does_not_depend_on_the_batch(random_pipeline, tmp_path):
    """By the ODE and by the SDE, whose noise is each picture's own."""
    base = ["--pipeline", str(random_pipeline("narrow")), "--steps", "3", "--save-npy", "--seed", "5"]
    base += [word for text in ("a cross", "a circle", "a square") for word in ("--prompt", text)]
    for solver in ("ode", "sde"):
        found = {}
        for batch in ("1", "2", "3"):
            out = tmp_path / solver / batch
            sample.main([*base, "--solver", solver, "--batch", batch, "--out", str(out)])
            found[batch] = np.load(out / "images.npy")
        np.testing.assert_allclose(found["1"], found["3"], atol=1e-4)
        np.testing.assert_allclose(found["2"], found["3"], atol=1e-4)
    assert np.abs(found["3"] - np.load(tmp_path / "ode" / "3" / "images.npy")).max() > 1e-2


def test_sde_solver_and_bfloat16_paint_finite_pictures(random_pipeline, tmp_path):
    args = ["--pipeline", str(random_pipeline("guided")), "--prompt", "a cross", "--steps", "3", "--solver", "sde"]
    sample.main([*args, "--dtype", "bfloat16", "--save-npy", "--out", str(tmp_path)])
    image = np.load(tmp_path / "images.npy")
    assert np.isfinite(image).all() and image.std() > 0.01


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--prompt", "a cross", "--height", "13"], "multiples of 4"),
        ([], "no prompt"),
        (["--prompts", "/nowhere/prompts.txt"], "does not exist"),
        (["--prompt", "a cross", "--latents", "/nowhere.npy"], "not a readable .npy"),
        (["--prompt", "a cross", "--steps", "0"], "at least 1"),
    ],
)
def test_mistakes_get_a_message(random_pipeline, tmp_path, capsys, flags, expected):
    with pytest.raises(SystemExit) as stop:
        sample.main(["--pipeline", str(random_pipeline("guided")), "--out", str(tmp_path), *flags])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_long_prompt_is_cut_with_a_warning(random_pipeline, tmp_path, capsys):
    text = "a small red circle top-left and a large blue square center"
    flags = ["--pipeline", str(random_pipeline("narrow")), "--steps", "1", "--out", str(tmp_path)]
    sample.main([*flags, "--prompt", text, "--max-sequence-length", "8"])
    assert "prompt of 12 tokens is cut to 8; lost: 'large blue square center'" in capsys.readouterr().err


def test_seeds_of_64_bits_paint_pictures_of_their_own(random_pipeline, tmp_path):
    common = ["--pipeline", str(random_pipeline("narrow")), "--steps", "1", "--save-npy", "--prompt", "a cross"]
    found = []
    for seed in (0, 2**32, 2**64 - 1):
        sample.main([*common, "--seed", str(seed), "--out", str(tmp_path / str(seed))])
        found.append(np.load(tmp_path / str(seed) / "images.npy"))
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(found) for b in found[:i])


def test_a_prompt_file_of_windows_paints_the_same_pictures(random_pipeline, tmp_path):
    common = ["--pipeline", str(random_pipeline("narrow")), "--steps", "1", "--save-npy"]
    files = {"plain.txt": "\n".join(PROMPTS), "windows.txt": "\ufeff" + "\r\n".join(PROMPTS)}
    files["rows.csv"] = "\ufeffid,prompt\r\n1,{}\r\n2,{}\r\n".format(*PROMPTS)
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
        sample.main([*common, "--prompts", str(tmp_path / name), "--out", str(tmp_path / name[:3])])
    plain, *others = (np.load(tmp_path / name[:3] / "images.npy") for name in files)
    assert len(plain) == 2 and all((plain == other).all() for other in others)
