"""python -m mvgrpo_jax.prompts: what it prints, draws and writes."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import prompts
from mvgrpo_jax.prompts import showing
from mvgrpo_jax.prompts.__main__ import main
from tests.prompts import made


def shown(capsys, *arguments):
    main([str(a) for a in arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_file_of_pairs(tmp_path, capsys):
    path, pairs = made.hpdv2_train(tmp_path)
    out = shown(capsys, "--source", path, "--min-length", 19)
    assert f"{path}: hpdv2 (JSON), {pairs} records, 50 prompts\n" in out
    assert "  as published: 400 in test.json, 800 in a file of benchmark/\n" in out
    assert f"  {pairs - 50} pairs of a prompt that another pair has, read once\n" in out
    assert "kept: 40\ndropped: 10\n  10 shorter than 19 characters, the first: 'a made-up scene, 0'\n" in out
    assert "length in characters: shortest 19, 5 % 19, median 19, 95 % 19, longest 19\n" in out
    assert out.split("the first 10:\n")[1].splitlines() == [f"  a made-up scene, {i}" for i in range(10, 20)]


def test_styles_and_counts_as_published(tmp_path, capsys):
    out = shown(capsys, "--source", made.hpdv2_test(tmp_path))
    assert "400 in test.json (as here)" in out and "dropped: 0\n" in out
    assert "style: anime 100, concept-art 100, paintings 100, photo 100\n" in out
    assert "  a made-up test scene, 0  [style: anime]\n" in out


def test_targets_and_repeats(tmp_path, capsys):
    path = made.write(tmp_path / "ocr.txt", 'A "Yes" sign\na  "yes" SIGN\nA "Yes" sign\nno sign\n')
    out = shown(capsys, "--source", path)
    assert "kept: 2\ndropped: 2\n" in out and "  1 without a target: no text between double quotes\n" in out
    assert "  1 repeats of an earlier prompt, the first: 'A \"Yes\" sign'\n" in out
    assert "  1 equal to an earlier prompt but for case or white space, the first: 'a \"yes\" SIGN'\n" in out
    assert '  A "Yes" sign  [target: Yes]\n' in out
    assert "kept: 4\ndropped: 0\n" in shown(capsys, "--source", path, "--keep-repeats")
    assert f"{path}: lines (lines), 4 records, 4 prompts\n" in shown(capsys, "--source", path, "--as", "lines")


def test_ten_thousand_repeats(tmp_path, capsys):
    out = shown(capsys, "--source", made.write(tmp_path / "p.txt", "a cat\n" * 10_001))
    assert "10001 records, 10001 prompts\nkept: 1\ndropped: 10000\n  10000 repeats" in out


def test_a_mixture(tmp_path, capsys):
    a, b = made.lines(tmp_path / "a.txt", 5), made.write(tmp_path / "b.txt", "x\na made-up LINE, 3\n")
    out = shown(capsys, "--source", f"{a}@3,{b}@1", "--plot", tmp_path / "plot.png")
    assert f"kept: 6 (5 of {a} (75.0% of the draws), 1 of {b} (25.0% of the draws))\n" in out
    with Image.open(tmp_path / "plot.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), np.int32)
    blue, orange = ((np.abs(pixels - color).sum(-1) < 30).sum() for color in ((31, 119, 180), (255, 127, 14)))
    assert blue > orange > 100  # both are drawn, the larger one larger


@pytest.mark.parametrize("most", [1, 3, 12])
@pytest.mark.parametrize("lengths", [[5], [1, 12], list(range(1, 100)), [3, 3, 7, 250], [10, 22]])
def test_bins_hold_every_length(lengths, most):
    edges = showing.bins(lengths, most)
    assert len(edges) - 1 <= most and len(set(np.diff(edges))) == 1
    assert edges[0] == min(lengths) and edges[-2] <= max(lengths) < edges[-1]


def test_the_printed_histogram_adds_up(tmp_path, capsys):
    texts = [f"{i:>05}" + "x" * (i * i % 97) for i in range(300)]
    out = shown(capsys, "--source", made.write(tmp_path / "p.txt", "\n".join(texts)))
    rows = [tuple(map(int, row)) for row in re.findall(r"^ +(\d+) to +(\d+) +(\d+)", out, re.M)]
    assert sum(count for _, _, count in rows) == 300
    for low, high, count in rows:
        assert count == sum(low <= len(text) <= high for text in texts)


def test_what_is_kept_can_be_written_and_read_again(tmp_path, capsys):
    path, out = made.geneval(tmp_path / "g.jsonl"), tmp_path / "new" / "kept.jsonl"
    block = made.write(tmp_path / "block.txt", "color_attr\n")
    said = shown(capsys, "--source", path, "--blocklist", block, "--out", out)
    assert (
        "  100 with words of the blocklist, the first: 'a photo of color_attr number 0'\n" in said
        and "tag: position 100, two_object 99, colors 94, " in said
    )
    assert "  words of the blocklist: color_attr 100\n" in said
    unique = list({row["prompt"]: row for row in made.geneval_rows() if row["tag"] != "color_attr"}.values())
    assert [json.loads(line) for line in out.read_text().splitlines()] == unique
    file = prompts.read_file(out)
    assert file.kind == "geneval" and file.prompts == prompts.load_corpus(str(path)).prompts[: len(unique)]


def test_captions_are_joined_by_prompt(tmp_path, capsys):
    path = made.write(tmp_path / "p.txt", "a cat\na dog\na bird\n")
    rows = [{"prompt": "A  cat", "captions": [{"text": "x"}, {"text": "y"}]}, {"prompt": "a dog", "captions": [{"text": "z"}]}]
    captions = made.write(tmp_path / "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    out = shown(capsys, "--source", path, "--captions", captions)
    assert f"captions: 2 of 3 prompts have some in {captions}, 1 to 2 each; 1 have none, such as 'a bird'\n" in out


def test_mistakes(tmp_path, capsys):
    path = made.lines(tmp_path / "p.txt", 3)
    assert "error: prompt file /nowhere does not exist; expected" in refused(capsys, "--source", "/nowhere")
    assert "Did you mean 'hpdv2'" in refused(capsys, "--source", path, "--as", "hpd2")
    assert "--min-length must be at most --max-length, got 3 and 2" in refused(
        capsys, "--source", path, "--min-length", 3, "--max-length", 2
    )
    assert "name it .jsonl" in refused(capsys, "--source", path, "--out", tmp_path / "p.csv")
    assert "none of 3 is left; dropped: 3 longer than 2 characters" in refused(capsys, "--source", path, "--max-length", 2)
    assert "blocklist /nowhere does not exist" in refused(capsys, "--source", path, "--blocklist", "/nowhere")
