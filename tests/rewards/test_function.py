"""Functions as judges: where they are found, what they may return, and the two that come with the package."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mvgrpo_jax import rewards, score
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.examples import ocr

SOURCE = '''"""Judges for a test."""
import numpy as np


def level(images, captions):
    assert images.dtype == np.uint8
    return [[image.mean() + len(text) for text in row] for image, row in zip(images, captions)]


def unsure(images, captions):
    return [[None if text == "odd" else float("nan") if text == "nan" else 1.0 for text in row] for row in captions]


def few(images, captions):
    return [1.0] * len(images)


def words(images, captions):
    return [["good" for _ in row] for row in captions]


def broken(images, captions):
    captions[0][0].no_such_thing()


number = 3
'''
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3), np.uint8)
TEXTS = [["a", "bcd"], ["", None], ["nan", "odd"]]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def judge(path):
    return rewards.make("mine", {"kind": "function", "path": str(path)})


def test_scores_are_the_functions(file):
    for images in (IMAGES, np.float32(IMAGES) / 255):
        scores, valid = judge(f"{file}:level").score(images, TEXTS)
        level = IMAGES.mean((1, 2, 3))
        np.testing.assert_allclose(scores, [[level[0] + 1, level[0] + 3], [level[1], 0], [level[2] + 3] * 2], rtol=1e-6)
        np.testing.assert_array_equal(valid, [[True, True], [True, False], [True, True]])
    assert scores.dtype == np.float32
    scores, valid = judge(f"{file}:unsure").score(IMAGES, TEXTS)
    np.testing.assert_array_equal(valid, [[True, True], [True, False], [False, False]])
    np.testing.assert_array_equal(scores, valid.astype(np.float32))


@pytest.mark.parametrize(
    "name, said",
    [
        ("few", r"few, .*mine.py line 14, returned scores \[3\] for 3 pictures under 2 captions each; expected \[3, 2\]"),
        ("words", r"words, .*mine.py line 18, returned .*good.*expected numbers \[3, 2\]"),
        ("broken", r"broken raised AttributeError \(.*no_such_thing.*\) at .*mine.py line 23"),
    ],
)
def test_what_a_function_does_wrong_is_said_with_its_line(file, name, said):
    with pytest.raises(UserError, match=said):
        judge(f"{file}:{name}").score(IMAGES, TEXTS)


def test_where_there_is_none(file, tmp_path):
    (tmp_path / "bad.py").write_text("import json\nx = (\n")
    (tmp_path / "worse.py").write_text("import json\njson.loads('{')\n")
    for path, said in (
        (f"{file}:levle", "no function 'levle' there; Did you mean 'level'"),
        (f"{file}:number", "no function 'number' there"),
        (f"{file}", "expected FILE.py:NAME or PACKAGE.MODULE:NAME"),
        (f"{tmp_path / 'gone.py'}:f", "no such file"),
        (f"{tmp_path / 'bad.py'}:f", r"cannot be imported: SyntaxError .*bad.py line 2"),
        (f"{tmp_path / 'worse.py'}:f", r"cannot be imported: JSONDecodeError .*worse.py line 2"),
        ("no.such.module:f", "cannot be imported: ModuleNotFoundError"),
    ):
        with pytest.raises(UserError, match=said):
            judge(path)
    with pytest.raises(UserError, match="the judge 'mine' of kind 'function' needs path"):
        rewards.make("mine", {"kind": "function"})


def test_the_size_as_jpeg():
    noise = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    images = np.stack([noise[0], noise[1] // 32 * 32, np.zeros((64, 64, 3), np.uint8)])
    scores, valid = judge("mvgrpo_jax.rewards.examples.jpeg:incompressibility").score(images, [["a", "b"]] * 3)
    for image, row in zip(images, scores):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        np.testing.assert_allclose(row, len(buffer.getvalue()) / 1000, rtol=1e-6)
    assert valid.all() and scores[0, 0] > 2 * scores[2, 0]
    less, _ = judge("mvgrpo_jax.rewards.examples.jpeg:compressibility").score(images, [["a", "b"]] * 3)
    np.testing.assert_array_equal(less, -scores)


def sign(words):
    image = Image.new("RGB", (320, 96), "white")
    ImageDraw.Draw(image).text((16, 20), words, fill="black", font=ImageFont.load_default(44))
    return np.asarray(image)


def test_words_in_a_picture_are_read():
    pytest.importorskip("onnxruntime")  # no wheels for the newest Python
    images = np.stack([sign("HELLO WORLD"), sign("HELPO WORLD"), np.full((96, 320, 3), 255, np.uint8)])
    captions = [['a sign "hello world"', "a sign 'Hello'", "a sign"]] * 3
    scores, valid = judge("mvgrpo_jax.rewards.examples.ocr:text").score(images, captions)
    np.testing.assert_array_equal(valid, [[True, True, False]] * 3)  # a prompt without quotes is no error
    np.testing.assert_allclose(scores, [[1, 1, 0], [0.9, 0.0, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    "caption, words",
    [
        ('a sign "Open" and "Late"', "Open Late"),
        ("a shirt \u201cGo on\u201d", "Go on"),
        ("it's a cat's hat", ""),
        ("a mug that says 'don't panic'", "don't panic"),
        ("nothing", ""),
    ],
)
def test_what_is_in_quotes(caption, words):
    assert ocr.quoted(caption) == words


def test_similarity_by_hand():
    assert ocr.similarity("Hello", "HE LLO there") == 1 and ocr.similarity("abcd", "abxd") == 0.75
    assert ocr.similarity("ab", "something else") == 0 and np.isnan(ocr.similarity("", "x"))


def test_the_score_command_asks_a_function(file, tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    out = tmp_path / "s.json"
    flags = ["--images", str(tmp_path / "a.png"), "--prompt", "abc", "--out", str(out)]
    score.main(["--judge", f"function={file}:level", *flags])
    assert json.loads(out.read_text())["judges"]["function"] == [pytest.approx(IMAGES[0].mean() + 3)]
    score.main(["--judge", "mine", "--option", "mine.kind=function", "--option", f"mine.path={file}:level", *flags])
    assert json.loads(out.read_text())["judges"]["mine"] == [pytest.approx(IMAGES[0].mean() + 3)]
