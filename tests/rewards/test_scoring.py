"""Picture files of every mode and size under prompts: pixels by hand, scores as the judges give them one at a time."""

import json

import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import rewards, score
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.world import render
from mvgrpo_jax.nano.world.scene import Scene, Thing
from mvgrpo_jax.rewards import scoring
from mvgrpo_jax.run.pictures import save_png, to_uint8

PROMPTS = ["a large red circle center on a white background", "a small blue square top on a black background"]
RED = render.draw(Scene((Thing("circle", "red", "large", "center"),), "white", 1))
BLUE = render.draw(Scene((Thing("square", "blue", "small", "top"),), "black", 1))


@pytest.fixture
def folder(tmp_path):
    """Three pictures of two sizes, whose order by name is not that of their sizes."""
    save_png(RED, tmp_path / "in" / "a.png")
    save_png(np.kron(BLUE, np.ones((2, 2, 1))), tmp_path / "in" / "b.png")
    save_png(BLUE, tmp_path / "in" / "c.png")
    (tmp_path / "in" / "prompts.txt").write_text("no picture\n")
    save_png(RED, tmp_path / "in" / "sheet.png")  # of the sample command
    return tmp_path / "in"


def test_every_mode_becomes_rgb(tmp_path):
    half = np.zeros((2, 3, 4), np.uint8)
    half[..., 0], half[..., 3] = 200, 51  # a fifth of red over white
    half[0, 0, 3] = 0
    got, kind = scoring.as_rgb(Image.fromarray(half, "RGBA"))
    assert kind == "transparent" and got.dtype == np.float32
    np.testing.assert_allclose(got[1, 1], [0.2 * 200 / 255 + 0.8, 0.8, 0.8], atol=1e-6)
    np.testing.assert_allclose(got[0, 0], 1.0)
    half[..., 3] = 255
    got, kind = scoring.as_rgb(Image.fromarray(half, "RGBA"))
    assert kind == ""
    np.testing.assert_allclose(got[1, 1], [200 / 255, 0, 0], atol=1e-6)

    gray, kind = scoring.as_rgb(Image.fromarray(np.array([[0, 51]], np.uint8)))
    assert kind == "gray"
    np.testing.assert_allclose(gray, [[[0] * 3, [0.2] * 3]], atol=1e-6)
    Image.fromarray(np.array([[0, 13107]], np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_allclose(scoring.read_picture(tmp_path / "deep.png")[0], [[[0] * 3, [0.2] * 3]], atol=1e-6)

    palette = Image.new("P", (1, 2))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 1), 1)
    palette.save(tmp_path / "palette.png")
    got, kind = scoring.read_picture(tmp_path / "palette.png")
    assert kind == "palette"
    np.testing.assert_array_equal(got, [[[1, 0, 0]], [[0, 0, 1]]])
    palette.save(tmp_path / "clear.png", transparency=1)
    got, kind = scoring.read_picture(tmp_path / "clear.png")
    assert kind == "transparent"
    np.testing.assert_array_equal(got, [[[1, 0, 0]], [[1, 1, 1]]])


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(scoring.read_picture(tmp_path / "x.png")[0], [[[1, 0, 0]], [[0, 0, 1]]])


@pytest.mark.parametrize("all_pairs", [False, True])
def test_scores_are_those_of_single_pictures_whatever_their_sizes(folder, all_pairs, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH", 2)
    judges = scoring.make_judges(["clip"])
    paths = scoring.find_pictures([folder])
    assert [p.name for p in paths] == ["a.png", "b.png", "c.png"]
    prompts = PROMPTS if all_pairs else [PROMPTS[1], PROMPTS[1], PROMPTS[0]]
    got, _ = scoring.score(judges, paths, prompts, all_pairs)
    judge = rewards.make("clip")
    for i, path in enumerate(paths):
        pixels = np.asarray(Image.open(path), np.float32)[None] / 255
        for j, prompt in enumerate(prompts) if all_pairs else [(i, prompts[i])]:
            want = scoring.score_pictures(rewards.Panel({"clip": judge}), pixels, [[prompt]])["clip"][0, 0]
            np.testing.assert_allclose(got["clip"][i, j] if all_pairs else got["clip"][i], want, atol=1e-5)


def test_the_command_writes_and_prints_them(folder, tmp_path, capsys):
    image = np.dstack([to_uint8(RED), np.full((32, 32), 255, np.uint8)])
    image[:4, :4, 3] = 0
    Image.fromarray(image, "RGBA").save(tmp_path / "cut.png")
    pictures = [str(folder / "a.png"), str(folder / "c.png"), str(tmp_path / "cut.png")]
    flags = ["--judge", "scene", "--images", *pictures, "--out", str(tmp_path / "s.json")]
    prompts = [word for p in (*PROMPTS, PROMPTS[0]) for word in ("--prompt", p)]
    score.main([*flags, *prompts])
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["images"] == pictures and written["prompts"] == [*PROMPTS, PROMPTS[0]]
    assert list(written["judges"]) == ["scene"] and all(s > 0.9 for s in written["judges"]["scene"])
    shown = capsys.readouterr()
    assert "1 pictures have transparency and were laid over white" in shown.err
    first = shown.out.splitlines()[1].split()
    assert first[0] == "a.png" and float(first[-1]) == pytest.approx(written["judges"]["scene"][0], abs=1e-4)

    score.main([*flags, "--prompt", PROMPTS[0]])  # one prompt for all
    assert json.loads((tmp_path / "s.json").read_text())["prompts"] == [PROMPTS[0]] * 3
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    score.main([*flags, "--prompts", str(tmp_path / "p.txt"), "--all-pairs"])
    written = json.loads((tmp_path / "s.json").read_text())
    right = np.asarray(written["judges"]["scene"]) > 0.9
    np.testing.assert_array_equal(right, [[True, False], [False, True], [True, False]])
    assert written["prompts"] == PROMPTS


def test_the_same_kind_from_two_places(tmp_path):
    from mvgrpo_jax.rewards.kinds.clip import EMBEDDED

    again = f"clip={EMBEDDED['clip-nano']}"
    assert list(scoring.make_judges(["clip", again, "scene"])) == ["clip", again, "scene"]


@pytest.mark.parametrize(
    "judge, expected",
    [
        ("clup=x", "unknown reward 'clup'; Did you mean 'clip'"),
        ("scene=x", "reads no folder"),
        ("clip=", "nothing after ="),
        ("clip=/nowhere", "no such file"),
    ],
)
def test_judges_that_cannot_be(judge, expected):
    with pytest.raises(UserError, match=expected):
        scoring.make_judges([judge])
    with pytest.raises(UserError, match="is there twice"):
        scoring.make_judges(["scene", "scene"])


def test_files_that_cannot_be_read(folder, tmp_path, capsys):
    whole = (folder / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tiff")
    (tmp_path / "empty").mkdir()
    cases = {"cut.png": "damaged or cut short", "text.png": "no picture that can be read", "float.tiff": "without a range"}
    for name, expected in (cases | {"gone.png": "does not exist", "empty": "no pictures there"}).items():
        with pytest.raises(SystemExit) as stop:
            score.main(f"--judge scene --images {tmp_path / name} --prompt x --out {tmp_path / 's.json'}".split())
        assert stop.value.code == 2 and expected in (said := capsys.readouterr().err) and name in said
    with pytest.raises(SystemExit):
        score.main(f"--judge scene --images {folder} --prompt x --out {tmp_path / 's.json'}".split())
    assert "pictures of 32 x 32 pixels, got one of 64 x 64" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        score.main(f"--judge scene --images {folder} --prompt x --prompt y --out {tmp_path / 's.json'}".split())
    assert "3 pictures and 2 prompts" in capsys.readouterr().err
