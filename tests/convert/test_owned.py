"""Only files that this program wrote are ever replaced or deleted."""

import hashlib
import json
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import folders
from mvgrpo_jax.convert.__main__ import main
from mvgrpo_jax.convert.owned import CHECKSUMS, verify
from mvgrpo_jax.convert.sources import TensorFiles
from mvgrpo_jax.convert.writing import write_folder
from mvgrpo_jax.errors import UserError

STEM = "diffusion_pytorch_model"


def state(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def source(random_pipeline):
    return random_pipeline("narrow")


@pytest.mark.parametrize(
    "name",
    [
        f"transformer/{STEM}.safetensors",
        f"transformer/{STEM}.safetensors.index.json",
        "text_encoder/model.safetensors",
        f"text_encoder/{STEM}.safetensors",  # read before ours
        "transformer/config.json",
        "model_index.json",
        "tokenizer/tokenizer_config.json",
        "vae/checksums.sha256",
    ],
)
def test_a_foreign_file_in_the_way_survives(source, tmp_path, name, capsys):
    """Import, export and save refuse before they touch anything; a folder somewhere else's is byte for byte what it was."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"the only copy")
    before = state(tmp_path)
    for command in (["import"], ["export"]):
        with pytest.raises(SystemExit):
            main([*command, "--src", str(source), "--dst", str(tmp_path)])
        assert "did not write" in (told := capsys.readouterr().err) or "not written by this program" in told
        assert name.rpartition("/")[2] in told
    with pytest.raises(UserError):
        pipelines.save(pipelines.load(source), tmp_path)
    assert state(tmp_path) == before


def test_foreign_files_beside_the_weights_stay(source, tmp_path):
    """Weights of other names in the same folder: they stay, a warning names them, and what was written is read."""
    place = tmp_path / "transformer"
    place.mkdir()
    foreign = {f"{STEM}.fp16.safetensors": b"mine", f"{STEM}-mine.safetensors": b"too", "notes.txt": b"?"}
    for name, content in foreign.items():
        (place / name).write_bytes(content)
    for limit in (10**9, 20_000):
        with pytest.warns(UserWarning, match=f"{STEM}-mine.safetensors, {STEM}.fp16.safetensors beside the weights"):
            folders.import_folder(source, tmp_path, limit=limit)
        assert all((place / name).read_bytes() == content for name, content in foreign.items())
        pipelines.load(tmp_path)


def test_the_original_layout_replaces_no_other_autoencoder(source, tmp_path):
    (tmp_path / "ae.safetensors").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="did not write.*ae.safetensors.*choose another folder"):
        folders.export(source, tmp_path, "original")
    assert state(tmp_path) == {"ae.safetensors": b"somebody's"}
    (tmp_path / "ae.safetensors").unlink()
    for _ in range(2):  # its own it does replace
        folders.export(source, tmp_path, "original")
    assert verify(tmp_path) == []
    (tmp_path / "ae.safetensors").write_bytes(b"changed by hand")
    with pytest.raises(UserError, match="changed since: ae.safetensors"):
        folders.export(source, tmp_path, "original")


@pytest.mark.parametrize(
    "first, second", [(10**9, 20_000), (20_000, 10**9), (20_000, 60_000), (60_000, 20_000), (10**9, 10**9)]
)
def test_stale_shards_of_our_own_do_not_stay(source, random_pipeline, tmp_path, first, second):
    """An export over an earlier one of another model and another number of shards: only the new one is there and is read."""
    other = random_pipeline("guided")
    folders.import_folder(other, tmp_path, limit=first)
    stale = set(state(tmp_path / "transformer"))
    folders.import_folder(source, tmp_path, limit=second)
    want = load_file(source / "transformer" / f"{STEM}.safetensors")
    got = TensorFiles(tmp_path / "transformer")
    assert sorted(got.names()) == sorted(want) and all((got.read(n) == want[n].numpy()).all() for n in want)
    weights = {p.name for p in (tmp_path / "transformer").glob("*.safetensors*")}
    index = tmp_path / "transformer" / f"{STEM}.safetensors.index.json"
    named = {*json.loads(index.read_text())["weight_map"].values(), index.name} if index.exists() else {f"{STEM}.safetensors"}
    assert weights == named and (first == second or stale - weights - {CHECKSUMS, "config.json"})
    pipelines.load(tmp_path)
    assert not [name for part in (tmp_path, *tmp_path.glob("*")) if part.is_dir() for name in verify(part)]


def test_stale_tokenizer_files_of_our_own_do_not_stay(source, tmp_path):
    """A pipeline whose tokenizer has a file more, then one without: the rest of it must not be read with the new one."""
    more = tmp_path / "more"
    shutil.copytree(source, more)
    (more / "tokenizer" / "added_tokens.json").write_text("{}")
    out = tmp_path / "out"
    folders.import_folder(more, out)
    (out / "tokenizer" / "mine.txt").write_text("mine")
    folders.import_folder(source, out)
    assert not (out / "tokenizer" / "added_tokens.json").exists() and (out / "tokenizer" / "mine.txt").exists()


def test_weights_that_were_put_in_place_of_ours_survive(source, tmp_path):
    """Same name as a file of our own export, other content: not ours any more."""
    folders.import_folder(source, tmp_path)
    path = tmp_path / "transformer" / f"{STEM}.safetensors"
    save_file({n: t + 1 for n, t in load_file(path).items()}, path)
    content = path.read_bytes()
    with pytest.raises(UserError, match=f"changed since: {STEM}.safetensors"):
        folders.import_folder(source, tmp_path)
    assert path.read_bytes() == content


def test_the_list_is_what_sha256sum_checks(source, tmp_path):
    folders.import_folder(source, tmp_path, limit=20_000)
    main(["verify", "--src", str(tmp_path)])
    for place in (tmp_path, tmp_path / "transformer"):
        done = subprocess.run(["sha256sum", "--strict", "-c", CHECKSUMS], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0 and len(done.stdout.splitlines()) > 3, done.stderr


@pytest.mark.parametrize("moment", ["before the name", "after the name"])
def test_a_crash_between_the_name_and_the_list_is_mended(tmp_path, monkeypatch, moment):
    """The machine stops just before a file gets its name, or just after: the next write knows what is there as its own."""
    from mvgrpo_jax.convert import files, owned

    def stop(*args):
        if moment == "after the name" or str(args[1]).endswith(".safetensors"):
            raise KeyboardInterrupt
        real(*args)

    real = files.os.replace

    save_file({"a": torch.ones(3)}, tmp_path / "one.safetensors")
    save_file({"a": torch.zeros(3)}, tmp_path / "two.safetensors")
    one, two, out = TensorFiles(tmp_path / "one.safetensors"), TensorFiles(tmp_path / "two.safetensors"), tmp_path / "out"
    for source in (one, two):  # nothing there yet; then over a whole file
        with monkeypatch.context() as crash:
            crash.setattr(*((owned.Owned, "wrote") if moment == "after the name" else (files.os, "replace")), stop)
            with pytest.raises(KeyboardInterrupt):
                write_folder(source, out, STEM)
        write_folder(source, out, STEM)
        digest = hashlib.sha256((out / f"{STEM}.safetensors").read_bytes()).hexdigest()
        assert owned.listed(out) == {f"{STEM}.safetensors": {digest}}
    assert (TensorFiles(out).read("a") == 0).all()
