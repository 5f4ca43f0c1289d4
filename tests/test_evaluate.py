"""The evaluate command: what it paints, scores, compares and resumes, and what it refuses."""

import csv
import errno
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from mvgrpo_jax import evaluate, rewards, sample
from mvgrpo_jax.evaluation import ledger, look
from mvgrpo_jax.rewards import scoring

PROMPTS = ["a small red circle top-left", "a large blue square center", 'a green cross | on "white"', "a circle on black"]
STYLES = ["anime", "photo", "anime", "photo"]
# The mean of the red channel; nothing for pictures whose first pixel's blue is odd.
JUDGE = """
def red(images, captions):
    return [[float(i[..., 0].mean()) / 255] for i in images]


def moody(images, captions):
    return [[float("nan") if len(c[0]) % 2 else len(c[0])] for c in captions]
"""


@pytest.fixture
def given(tmp_path, base):
    """run(name, *flags) -> the folder of an evaluation of all prompts by the redness of pictures."""
    (tmp_path / "prompts.json").write_text(json.dumps([{"prompt": p, "style": s} for p, s in zip(PROMPTS, STYLES)]))
    (tmp_path / "mine.py").write_text(JUDGE)

    def run(name, *flags, judges=("red",)):
        words = [w for j in judges for w in ("--judge", f"{j}={tmp_path}/mine.py:{j}", "--option", f"{j}.kind=function")]
        common = [
            "--pipeline",
            base,
            "--prompts",
            str(tmp_path / "prompts.json"),
            "--steps",
            "2",
            "--seed",
            "4",
            "--seeds",
            "2",
            "--batch",
            "3",
        ]
        evaluate.main([*common, *words, "--out", str(tmp_path / name), *flags])
        return tmp_path / name

    return run


@pytest.fixture(scope="module")
def base(random_pipeline):
    return str(random_pipeline("narrow"))


@pytest.fixture(scope="module")
def other(base, tmp_path_factory):
    """The same with other weights in its transformer."""
    folder = tmp_path_factory.mktemp("other") / "changed"
    shutil.copytree(base, folder)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: (1.2 * tensor).to(tensor.dtype).contiguous() for name, tensor in load_file(path).items()}, path)
    return str(folder)


def picture(path):
    return np.asarray(Image.open(path).convert("RGB"))


def rows(folder):
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def read(folder):
    return json.loads((folder / "summary.json").read_text())


def test_pictures_are_those_that_sample_paints_and_scores_are_theirs(given, base, tmp_path, capsys):
    out = given("out", "--first", "1", "--count", "2", "--judge", "clip")
    words = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    for seed in (4, 5):
        sample.main(["--pipeline", base, "--steps", "2", "--seed", str(seed), "--out", str(tmp_path / str(seed)), *words])
    found = rows(out)
    assert [(r["number"], r["seed"], r["prompt"], r["style"]) for r in found] == [
        (n, s, PROMPTS[n], STYLES[n]) for n in (1, 2) for s in (4, 5)
    ]
    images = [picture(out / r["picture"]) for r in found]
    for r, image in zip(found, images):
        expected = picture(tmp_path / str(r["seed"]) / f"{r['number']:04d}.png")
        assert np.abs(image.astype(int) - expected).max() <= 1 and image.std() > 5
        assert r["scores"]["red"] == pytest.approx(image[..., 0].mean() / 255, abs=1e-6)
    texts = [[r["prompt"] for r in found]]
    judged = scoring.score_pictures(rewards.Panel({"clip": rewards.make("clip")}), np.stack(images), texts)["clip"][0]
    np.testing.assert_allclose([r["scores"]["clip"] for r in found], judged, atol=1e-5)
    said = Image.open(out / found[3]["picture"]).text
    assert said["prompt"] == PROMPTS[2] and (said["seed"], said["number"], said["steps"]) == ("5", "2", "2")
    assert said["guidance"] == "3.5" and said["pipeline"] == os.path.basename(base)
    # The mean over prompts of means over seeds; the deviation of two is half their difference.
    a, b = (np.mean([r["scores"]["red"] for r in found if r["number"] == n]) for n in (1, 2))
    summary = read(out)["judges"]["red"]
    assert summary["mean"] == pytest.approx((a + b) / 2) and summary["stderr"] == pytest.approx(abs(a - b) / 2 / 2**0.5)
    assert (summary["low"], summary["high"]) == pytest.approx((min(a, b), max(a, b)))  # a quarter of resamples is each
    assert f"red: {summary['mean']:.4f} [" in capsys.readouterr().out
    with open(out / "scores.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [r["prompt"] for r in table] == texts[0] and float(table[1]["red"]) == pytest.approx(found[1]["scores"]["red"])


def test_the_same_weights_tie_and_noise_is_the_same_with_a_comparison(given, base):
    alone, both = given("alone"), given("both", "--against", base)
    for item in rows(alone):
        same = [picture(folder / item["picture"]) for folder in (alone, both, both / "against")]
        assert (same[0] == same[1]).all() and (same[1] == same[2]).all()
    compared = read(both)["against"]["judges"]["red"]
    assert compared["win_rate"]["mean"] == compared["win_rate"]["low"] == 0.5 and compared["difference"]["mean"] == 0
    assert compared["pairs"] == 8 and rows(both / "against")[0]["scores"] == rows(both)[0]["scores"]


def test_a_comparison_pairs_pictures_and_sorts_by_difference(given, base, other):
    out = given("out", "--pipeline", other, "--against", base)
    ours, theirs = (np.asarray([r["scores"]["red"] for r in rows(f)]).reshape(4, 2) for f in (out, out / "against"))
    assert np.abs(ours - theirs).min() > 0
    compared = read(out)["against"]["judges"]["red"]
    assert compared["win_rate"]["mean"] == pytest.approx((ours > theirs).mean())
    assert compared["difference"]["mean"] == pytest.approx((ours - theirs).mean())
    assert compared["mean"] == pytest.approx(theirs.mean())
    with open(out / "pairs.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    differences = [float(r["difference"]) for r in listed]
    assert differences == sorted((ours - theirs).ravel(), reverse=True) and len(listed) == 8
    first = next(r for r in rows(out) if str(r["number"]) == listed[0]["number"] and str(r["seed"]) == listed[0]["seed"])
    assert first["prompt"] == listed[0]["prompt"] and first["scores"]["red"] == float(listed[0]["score"])


def test_an_evaluation_serves_as_a_base_and_a_further_judge_paints_nothing(given, other, tmp_path, capsys):
    base, out = given("base"), given("out", "--pipeline", other, "--against", str(tmp_path / "base"))
    assert read(out)["against"]["name"].startswith("narrow") and not (out / "against").exists()
    assert '"folder":"../base"' in (out / "index.html").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        given("out", "--pipeline", other, "--against", str(base), judges=("red", "moody"))
    assert "has no scores of the judge 'moody'; run its own command with --judge moody" in capsys.readouterr().err
    times = {p.name: p.stat().st_mtime_ns for p in (base / "pictures").iterdir()}
    given("base", judges=("red", "moody"))
    assert times == {p.name: p.stat().st_mtime_ns for p in (base / "pictures").iterdir()}
    given("out", "--pipeline", other, "--against", str(base), judges=("red", "moody"))
    assert read(out)["against"]["judges"]["moody"]["win_rate"]["mean"] == 0.5
    with pytest.raises(SystemExit):
        given("third", "--against", str(base), "--steps", "3")
    assert "steps: 2 there, 3 now" in capsys.readouterr().err


def test_a_judge_that_cannot_tell_leaves_empty_cells_that_are_counted(given, capsys):
    out = given("out", judges=("moody",))
    lengths = [len(p) for p in PROMPTS]
    even = [n for n in lengths if n % 2 == 0]
    assert 0 < len(even) < 4
    found = read(out)["judges"]["moody"]
    assert found["missing"] == 2 * (4 - len(even)) and found["scored"] == 2 * len(even) and found["prompts"] == len(even)
    assert found["mean"] == pytest.approx(np.mean(even))
    assert f"moody gave no score of {found['missing']} pictures" in capsys.readouterr().out
    with open(out / "scores.csv", newline="") as file:
        cells = [r["moody"] for r in csv.DictReader(file)]
    assert [c == "" for c in cells] == [n % 2 == 1 for n in lengths for _ in (4, 5)]
    assert [r["scores"]["moody"] for r in rows(out)][:2] == [None if lengths[0] % 2 else lengths[0]] * 2


def test_a_full_disk_stops_with_a_message_and_the_same_command_goes_on(given, monkeypatch, capsys):
    whole = given("whole")
    write, left = os.write, [3]

    def full(descriptor, data):
        if not left[0]:
            write(descriptor, data[:20])  # the disk takes a part of the line
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        return write(descriptor, data)

    monkeypatch.setattr(ledger.os, "write", full)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        given("out")
    message = capsys.readouterr().err
    assert stop.value.code == 2 and "No space left on device" in message and "free some space and run the same" in message
    monkeypatch.undo()
    out = whole.parent / "out"
    times = {p.name: p.stat().st_mtime_ns for p in (out / "pictures").iterdir()}
    assert 3 <= len(times) < 8 and not (out / "summary.json").exists()
    given("out")
    after = {p.name: p.stat().st_mtime_ns for p in (out / "pictures").iterdir()}
    assert sum(times.get(name) == at for name, at in after.items()) == 3  # those whose line was there
    assert len(after) == 8 and rows(out) == rows(whole) and read(out) == read(whole)


def test_what_is_interrupted_goes_on(given, monkeypatch, capsys):
    measured, pressed = look.measured, []

    def interrupted(*arguments):
        if not pressed:
            pressed.append(signal.raise_signal(signal.SIGINT))
            time.sleep(20)  # ended by what the signal raises
        return measured(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(look, "measured", interrupted)
        given("out")
    assert stop.value.code == 75 and capsys.readouterr().err.endswith("the same command goes on\n")
    assert len(rows(given("out"))) == 8


def test_a_folder_holds_one_evaluation(given, other, capsys):
    given("out")
    for flags, line in (
        (["--steps", "3"], "steps: 2 there, 3 now"),
        (["--seeds", "1"], "seeds: 2 there, 1 now"),
        (["--count", "3"], "count: 4 there, 3 now"),
        (["--pipeline", other], "weights: '"),
        (["--judge", "clip", "--option", "clip.scale=2"], ""),
        (["--judge", "clip"], "judge clip: scale: 2.0 there, not set now"),
    ):
        capsys.readouterr()
        if not line:
            given("out", *flags)
            continue
        with pytest.raises(SystemExit) as stop:
            given("out", *flags)
        message = capsys.readouterr().err
        assert stop.value.code == 2 and line in message and "choose another --out" in message


def test_styles_have_rows_and_estimates(given):
    out = given("out", "--per-style", "--published")
    scores = np.asarray([r["scores"]["red"] for r in rows(out)]).reshape(4, 2)
    assert read(out)["styles"]["photo"]["judges"]["red"]["mean"] == pytest.approx(scores[[1, 3]].mean())
    lines = (out / "table.md").read_text().splitlines()
    photo = next(line for line in lines if ": photo" in line)
    assert f"| {scores[[1, 3]].mean():.3f} [" in photo
    assert "| HPSv3 | MV-GRPO (VLM) (published) | 0.155 | 3.229 |" in "\n".join(lines)
    assert "4 prompts of prompts.json" in lines[-1] and "seeds 4 to 5, 2 steps, guidance 3.5, 16 x 16" in lines[-1]


def test_several_seeds_tell_how_unlike_pictures_are(given):
    out = given("out", "--judge", "clip")
    pictures = [Image.open(out / r["picture"]).resize((32, 32), Image.Resampling.BOX) for r in rows(out)]
    pixels = np.asarray([np.asarray(image) for image in pictures]).reshape(4, 2, -1) / 255.0
    unlike = np.sqrt(((pixels[:, 0] - pixels[:, 1]) ** 2).mean(-1)).mean()
    found = read(out)["collapse"]
    assert found["pixel_distance"]["mean"] == pytest.approx(unlike, abs=1e-6) and unlike > 0.01
    assert 0 < found["clip_distance"]["mean"] < 2 and 0 <= found["near_duplicates"]["share"] <= 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--judge", "scen"), "unknown reward 'scen'; Did you mean 'scene'? there are: aesthetic, clip"),
        (("--judge", "hpsv3"), "the judge 'hpsv3' of kind 'hpsv3' needs folder, base: give --option hpsv3.folder="),
        (("--first", "4"), "has no prompts after it, it has 4"),
        (("--seed", str(2**64 - 1)), "the last seed is beyond"),
        (("--pipeline", "nobody/nothing"), "is neither a folder here nor in the Hugging Face cache"),
        (("--height", "13"), "multiples of"),
        (("--prompts", "flux-nano", "--per-style"), "no prompt of flux-nano has a style"),
        (("--best",), "give its --workdir"),
    ],
)
def test_mistakes_get_a_message(flags, message, given, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        given("out", *flags)
    assert stop.value.code == 2 and not (tmp_path / "out").exists()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("part", ["vae", "tokenizer_2", "scheduler"])
def test_a_pipeline_without_a_component_is_refused_before_anything_is_made(part, given, other, tmp_path, capsys):
    shutil.copytree(other, tmp_path / "lame")
    shutil.rmtree(tmp_path / "lame" / part)
    with pytest.raises(SystemExit) as stop:
        given("out", "--pipeline", str(tmp_path / "lame"))
    assert stop.value.code == 2 and not (tmp_path / "out").exists()
    assert f"lame has no {part}; expected a FluxPipeline" in capsys.readouterr().err


def test_a_name_is_looked_up_in_the_cache_of_the_hub(given, other, tmp_path, monkeypatch):
    kept = tmp_path / "hub" / "models--some--model"
    shutil.copytree(other, kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    named, folder = given("named", "--pipeline", "some/model"), given("folder", "--pipeline", other)
    assert rows(named) == rows(folder) and read(named)["name"] == "model"
