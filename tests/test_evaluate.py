"""The evaluate command: pictures in batches, scores and diversity of fixed prompts, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import evaluate, rewards, sample
from mvgrpo_jax.rewards import scoring
from mvgrpo_jax.run.pictures import to_uint8

PROMPTS = ["a small red circle top-left", "a large blue square center"]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(["a prompt that is skipped", *PROMPTS]))
    return str(path)


def run(folder, *flags) -> dict:
    evaluate.main(["--steps", "2", "--seed", "4", "--out", str(folder), *flags])
    return json.loads((folder / "scores.json").read_text())


def test_scores_are_those_of_the_pictures_that_sample_paints(prompts, tmp_path, capsys):
    got = run(tmp_path / "out", "--prompts", prompts, "--first", "1", "--count", "2", "--batch", "1")
    printed = capsys.readouterr().out.splitlines()
    words = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    sample.main(["--steps", "2", "--seed", "4", "--save-npy", "--out", str(tmp_path / "sample"), *words])
    images = np.load(tmp_path / "sample" / "images.npy")
    assert images.shape == (2, 32, 32, 3) and set(got) == {"scene", "clip"}
    for (name, summary), line in zip(got.items(), printed, strict=True):
        a, b = scoring.score_pictures(rewards.Panel({name: rewards.make(name)}), to_uint8(images), [PROMPTS])[name][0]
        assert summary == pytest.approx({"mean": (a + b) / 2, "stderr": abs(a - b) / 2 / 2**0.5}, abs=1e-4)
        assert line == f"{name}: {summary['mean']:.4f} +- {summary['stderr']:.4f} over 2 prompts"
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width >= 320 and len(set(sheet.convert("RGB").getdata())) > 10


def test_diversity_is_the_distance_of_two_pictures_of_a_prompt(tmp_path, prompts):
    got = run(tmp_path / "out", "--prompts", prompts, "--count", "1", "--judge", "clip", "--per-prompt", "2")
    # Picture 1 of the seed is the second of the only prompt.
    words = ["--prompt", "a prompt that is skipped"] * 2
    sample.main(["--steps", "2", "--seed", "4", "--save-npy", "--out", str(tmp_path / "sample"), *words])
    first, second = np.load(tmp_path / "sample" / "images.npy").astype(np.float64)
    assert set(got) == {"clip", "diversity"}
    assert got["diversity"] == pytest.approx({"mean": np.sqrt(((first - second) ** 2).mean()), "stderr": 0.0}, abs=1e-4)
    assert got["diversity"]["mean"] > 0.01


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--judge", "scen"), "unknown reward 'scen'; Did you mean 'scene'? there are: aesthetic, clip"),
        (("--first", "3"), "has no prompts after it"),
    ],
)
def test_mistakes_get_a_message(flags, message, prompts, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--prompts", prompts, "--out", str(tmp_path / "out"), *flags])
    assert stop.value.code == 2 and not (tmp_path / "out").exists()
    assert message in capsys.readouterr().err
