"""Table 1 of several runs, from workdirs whose scores are known."""

import numpy as np
import pytest

from mvgrpo_jax.compare import paper, results, runs
from mvgrpo_jax.evaluation import table as tables
from tests.compare.workdirs import with_, write

BEFORE, AFTER = {"clip": [0.1, 0.2, 0.3], "scene": [0.5, 0.5, 0.8]}, {"clip": [0.4, 0.4, 0.4], "scene": [0.6, 0.3, 0.9]}


def config(name, **rewards):
    return with_(algorithm={"name": name}, rewards=rewards, judges={"clip": {"folder": "clip-nano", "scale": 1.0}, "scene": {}})


def workdirs(tmp_path, **more):
    single = config("flow_grpo", clip=1.0, scene=0.0)
    views = config("mvgrpo", clip=1.0, scene=0.5)
    return [
        write(tmp_path / "a", {0: BEFORE, 6: AFTER}, config=single, **more),
        write(tmp_path / "b", {0: BEFORE, 9: {"clip": [0.2, 0.2, 0.5], "scene": [1.0, 1.0, 1.0]}}, config=views, **more),
    ]


def test_rows_are_the_untrained_policy_and_each_run_at_its_last_evaluation(tmp_path):
    found = paper.table(runs.read(workdirs(tmp_path)))
    assert found.head == ["Trained on", "Method", "CLIP", "scene"]
    assert [(row.trained_on, row.method) for row in found.rows] == [
        ("-", "before training"),
        ("CLIP", "flow_grpo"),
        ("CLIP + scene", "mvgrpo"),
    ]
    means = [[row.cells[title].mean for title in found.titles] for row in found.rows]
    np.testing.assert_allclose(means, [[0.2, 0.6], [0.4, 0.6], [0.3, 1.0]], atol=1e-12)
    assert "3 held-out prompts of nano" in found.caption and "after 6 to 9 iterations" in found.caption
    assert "CLIP = clip, clip-nano" in found.caption


def test_hpsv3_is_scaled_as_in_the_paper(tmp_path):
    scores = {"hpsv3": [10.0, 12.0, 14.0]}
    of = with_(rewards={"hpsv3": 1.0}, judges={"hpsv3": {"folder": "HPSv3.safetensors"}}, eval={"judge": "hpsv3"})
    (row,) = paper.table(runs.read([write(tmp_path / "a", {4: scores}, config=of)])).rows
    assert row.cells["HPSv3"].mean == pytest.approx(0.12)


def test_two_runs_of_one_algorithm_are_told_apart(tmp_path):
    folders = [write(tmp_path / n, {0: BEFORE}, config=config("mvgrpo", clip=1.0, scene=0.0)) for n in ("a", "b")]
    assert [row.method for row in paper.table(runs.read(folders)).rows[1:]] == ["mvgrpo (a)", "mvgrpo (b)"]


def test_it_is_written_in_three_forms(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    page = results.write(workdirs(tmp_path), out).page.read_text()
    shown = (out / "table.md").read_text()
    assert shown.splitlines()[0] == "| Trained on | Method | CLIP | scene |" and "| CLIP + scene | mvgrpo | 0.300 [" in shown
    assert "<td>CLIP + scene</td><td>mvgrpo</td>" in page and "In the paper&#39;s columns" not in page
    assert r"\toprule" in (out / "table.tex").read_text()
    assert tables.markdown(paper.table(runs.read([tmp_path / "a", tmp_path / "b"]))) == shown


def test_runs_without_single_scores_have_none(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    results.write(workdirs(tmp_path, kept=False), out)
    assert not (out / "table.md").exists()
