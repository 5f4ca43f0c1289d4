"""Weights of judges written once as safetensors: the same scores, names that are checked, files of others left alone."""

import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mvgrpo_jax import rewards
from mvgrpo_jax.convert import __main__ as command
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import converted, kinds
from tests.rewards.judges import MAKERS, MANY


def leaves(judge) -> list[np.ndarray]:
    return [np.asarray(a) for a in jax.tree.leaves(judge.load())]


@pytest.mark.parametrize("name", MANY)
def test_a_converted_judge_has_the_same_parameters(name, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    kind, options, *_ = MAKERS[name](source, "exact")
    place = kinds.place(kind)
    words = ["--kind", kind, "--src", options[place], "--dst", str(tmp_path / "to")]
    command.main(["judge", *words, *(["--base", options["base"]] if "base" in options else [])])
    before = rewards.make(kind, options)
    after = rewards.make(kind, options | {place: str(tmp_path / "to")})
    for a, b in zip(leaves(before), leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)
    stored = load_file(tmp_path / "to" / "model.safetensors")
    assert not any(n.startswith(("visual.", "blip.", "layers.")) for n in stored)
    if kind == "hpsv2":
        assert before.version == after.version == "v2.0"
    words[words.index("--dst") + 1] = str(tmp_path / "half")
    command.main(["judge", *words, "--dtype", "bfloat16", *(["--base", options["base"]] if "base" in options else [])])
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}


def test_what_cannot_be_converted(tmp_path, capsys):
    _, options, *_ = MAKERS["hpsv2"](tmp_path, "exact")
    with pytest.raises(UserError, match="the judge 'scene' has no weights to convert; there are: aesthetic, clip, hpsv2"):
        converted.convert("scene", tmp_path / "HPS_v2_compressed.pt", tmp_path / "to")
    with pytest.raises(UserError, match="weights do not fit"):  # the published sizes, without a base that says others
        converted.convert("hpsv2", tmp_path / "HPS_v2_compressed.pt", tmp_path / "to")
    assert not (tmp_path / "to").exists()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "model.safetensors").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        words = ["--src", options["weights"], "--dst", str(tmp_path / "to"), "--base", options["base"]]
        command.main(["judge", "--kind", "hpsv2", *words])
    assert stop.value.code == 2 and "has files that this program did not write" in capsys.readouterr().err
    assert (tmp_path / "to" / "model.safetensors").read_text() == "mine"


def test_versions_are_told_by_the_files_names(tmp_path):
    kind, options, *_ = MAKERS["hpsv2"](tmp_path, "quick")
    assert rewards.make(kind, options).version == "v2.1"
    shutil.copy(options["weights"], tmp_path / "mine.pt")
    assert rewards.make(kind, options | {"weights": str(tmp_path / "mine.pt")}).version == "of an unknown version"
