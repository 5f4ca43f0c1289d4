"""Runs side by side, on workdirs with numbers that are worked out by hand."""

import csv
import re

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from mvgrpo_jax.compare import __main__ as command
from mvgrpo_jax.compare import hacking, results, runs, scores
from mvgrpo_jax.errors import UserError
from tests.compare.workdirs import PROMPTS, with_, write

ONE = {
    0: {"clip": [0.2, 0.4, 0.6], "scene": [1.0, 0.5, 0.0]},
    4: {"clip": [0.8, 0.9, 1.0], "scene": [1.0, 0.8, 0.6]},
    8: {"clip": [0.5, 0.9, 1.3], "scene": [0.2, 0.4, 0.0]},
}
OTHER = {
    0: {"clip": [0.2, 0.4, 0.6], "scene": [1.0, 0.5, 0.0]},
    4: {"clip": [0.6, 0.8, 1.3], "scene": [0.9, None, 0.9]},
}


@pytest.fixture
def pair(tmp_path):
    other = {i: {j: [np.nan if v is None else v for v in values] for j, values in row.items()} for i, row in OTHER.items()}
    a = write(tmp_path / "x" / "run", ONE, shade={0: 90, 8: 200})
    b = write(tmp_path / "y" / "run", {0: other[0]}, shade={0: 91, 4: 30})
    # As the run writes it: the mean over what is there, null in JSON.
    (b / "metrics.jsonl").write_text(
        '{"iteration": 0, "eval/clip": 0.4, "eval/scene": 0.5}\n{"iteration": 4, "eval/clip": 0.9, "eval/scene": 0.9}\n'
    )
    (b / "eval" / "000004.json").write_text(
        f'{{"iteration": 4, "prompts": {str(PROMPTS).replace(chr(39), chr(34))}, "scores": '
        '{"clip": [0.6, 0.8, 1.3], "scene": [0.9, null, 0.9]}}'
    )
    return [a, b]


def test_first_best_last_and_differences_prompt_by_prompt(pair, tmp_path):
    found = results.write(pair, tmp_path / "out")
    assert not found.notes
    table = {(line.judge, line.run): line for line in found.lines}
    assert list(table) == [("clip", "x/run"), ("clip", "y/run"), ("scene", "x/run"), ("scene", "y/run")]
    a, b = table["clip", "x/run"], table["clip", "y/run"]
    assert (a.role, table["scene", "x/run"].role) == ("trained", "held out")
    np.testing.assert_allclose((a.first, a.best, a.last), (0.4, 0.9, 0.9))
    assert (a.first_at, a.last_at, a.best_at) == (0, 8, 4)
    gain = np.array([0.3, 0.5, 0.7])
    np.testing.assert_allclose(a.gain, (0.5, stats.sem(gain)), rtol=1e-6)
    assert a.ahead is None and b.ahead_at == 4  # the last iteration that both were evaluated at
    np.testing.assert_allclose(b.ahead, (0.0, stats.sem([-0.2, -0.1, 0.3])), atol=1e-12)
    # A prompt without a score in one of the two does not count.
    np.testing.assert_allclose(table["scene", "y/run"].ahead, (0.1, stats.sem([-0.1, 0.3])), rtol=1e-6)
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["ahead_stderr"]) == b.ahead.stderr and rows[0]["ahead"] == ""


def test_a_page_that_needs_nothing_else(pair, tmp_path, capsys):
    command.main([*map(str, pair), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "clip (trained), x/run: 0.4000 -> 0.9000 at 8 (+0.5000 ± 0.1155), best 0.9000 at 4" in said
    assert "scene (held out), y/run: 0.5000 -> 0.9000 at 4" in said and "+0.1000 ± 0.2000 against the first run at 4" in said
    assert "note" not in said and f"report: {tmp_path}/out/report.html" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    for title in ("eval/clip", "eval/scene", "reward/clip", "grad_norm"):
        assert f"<b>{title}.</b>" in page
    assert "the pictures before training are the same in all of them" in page


def test_pictures_before_stand_once_where_they_are_the_same(pair, tmp_path):
    """90 and 91 are one picture on two machines; 200 and 30 are after training."""
    results.write(pair, tmp_path / "out")
    sheet = np.asarray(Image.open(tmp_path / "out" / "before_after.png"))
    row = sheet[80, 6 + 90 :: 186][:6, 0]  # the middle of each cell, two prompts side by side
    assert row.tolist() == [90, 200, 30, 90, 200, 30]


def test_other_noise_is_said_and_each_before_is_shown(tmp_path):
    a = write(tmp_path / "a", ONE, shade={0: 90, 8: 200})
    b = write(tmp_path / "b", ONE, shade={0: 140, 8: 30})
    results.write([a, b], tmp_path / "out")
    sheet = np.asarray(Image.open(tmp_path / "out" / "before_after.png"))
    assert sheet[80, 6 + 90 :: 186][:4, 0].tolist() == [90, 200, 140, 30]
    assert "began with other pictures" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    "other, note",
    [
        (dict(prompts=["a", "b", "c"]), "b was evaluated on other prompts than a"),
        (dict(config=with_(eval={"steps": 4})), "eval.steps is 16 in a, 4 in b"),
        (dict(kept=False, config=with_(prompts={"eval": "mine.txt"})), "b was evaluated on other prompts than a"),
    ],
)
def test_other_evaluations_leave_curves_alone(tmp_path, capsys, other, note):
    shade = None if other.get("kept") is False else {0: 90, 8: 200}
    a, b = write(tmp_path / "a", ONE, shade=shade), write(tmp_path / "b", ONE, shade=shade, **other)
    found = results.write([a, b], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert found.notes == [note] and found.lines == [] and note in page and "Only curves are shown" in page
    assert not (tmp_path / "out" / "scores.csv").exists() and not (tmp_path / "out" / "before_after.png").exists()
    assert "<b>eval/clip.</b>" in page


def test_a_judge_with_other_settings_is_not_compared(tmp_path):
    other = with_(judges={"clip": {"folder": "clip-large", "chunk": 16}})
    a, b = write(tmp_path / "a", ONE), write(tmp_path / "b", ONE, config=other)
    found = results.write([a, b], tmp_path / "out")
    assert len(found.notes) == 1 and "judges.clip.folder: 'clip-nano' in a, 'clip-large' in b" in found.notes[0]
    assert {line.judge: line.ahead is not None for line in found.lines if line.run == "b"} == {"clip": False, "scene": True}
    chunked = with_(judges={"clip": {"folder": "clip-nano", "chunk": 1}})
    assert not results.write([a, write(tmp_path / "c", ONE, config=chunked)], tmp_path / "out").notes


def test_evaluations_on_earlier_prompts_of_a_run_do_not_count(tmp_path):
    folder = write(tmp_path / "a", ONE)
    path = folder / "eval" / "000000.json"
    path.write_text(path.read_text().replace("a red circle", "something else"))
    (run,) = runs.read([folder])
    assert list(run.scores("clip")) == [4, 8] and run.rows[0]["reward/clip"] == 0


def test_runs_of_earlier_versions_have_no_standard_errors(tmp_path):
    line = scores.lines(runs.read([write(tmp_path / "a", ONE, kept=False, config=None)]), set())[0]
    np.testing.assert_allclose(line.gain.mean, 0.5)
    assert np.isnan(line.gain.stderr) and str(line.gain) == "+0.5000" and line.role == "held out"


def test_trained_against_held_out(tmp_path):
    (run,) = runs.read([write(tmp_path / "a", ONE)])
    found = hacking.gains(run)
    assert found.unit == hacking.DEVIATIONS and list(found.trained) == ["clip"] and list(found.held_out) == ["scene"]
    deviation = np.std([0.2, 0.4, 0.6])
    np.testing.assert_allclose(list(found.trained["clip"].values()), [0, 0.5 / deviation, 0.5 / deviation])
    np.testing.assert_allclose(found.held_out["scene"][8], (0.2 - 0.5) / np.std([1.0, 0.5, 0.0]))
    said = hacking.sentence(found)
    assert "iteration 8: trained clip +3.06; held out scene -0.73" in said
    assert said.endswith("they diverge: what is held out falls since iteration 4")
    assert len(hacking.plot(found)) > 1000


def test_gains_without_deviations_and_without_a_judge_that_watches(tmp_path):
    folder = write(tmp_path / "a", {i: {"clip": ONE[i]["clip"], "scene": ONE[i]["scene"]} for i in (0, 4)})
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text().replace("eval_std", "other"))
    found = hacking.gains(runs.read([folder])[0])
    assert found.unit == hacking.SHARE
    np.testing.assert_allclose([found.trained["clip"][4], found.held_out["scene"][4]], [125, 60])
    assert not re.search("diverge|highest", hacking.sentence(found))
    both = with_(rewards={"clip": 1.0, "scene": 0.5})
    assert hacking.gains(runs.read([write(tmp_path / "b", ONE, config=both)])[0]) is None


def test_mistakes(tmp_path, capsys):
    with pytest.raises(UserError, match="nothing/metrics.jsonl does not exist; expected the workdir of a run"):
        runs.read([tmp_path / "nothing"])
    bare = write(tmp_path / "bare", {})
    with pytest.raises(SystemExit) as stop:
        command.main([str(bare), "--out", str(tmp_path / "out")])
    assert (
        stop.value.code == 2 and "has no evaluation; expected a run with config.eval.every above 0" in capsys.readouterr().err
    )
    one = write(tmp_path / "one", ONE)
    with pytest.raises(UserError, match="one is given twice"):
        runs.read([one, tmp_path / "bare" / ".." / "one"])
