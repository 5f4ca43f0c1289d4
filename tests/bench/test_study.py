"""The study's report: its figures by hand, and that the page shows what the committed runs say."""

import json
from pathlib import Path

import pytest

from bench import study, study_report

ROOT = Path(__file__).parents[2]


def run(arm: str, seed: int, scene: float, curve: list, iterations: int = 10) -> dict:
    made = {"arm": arm, "seed": seed, "scene": scene, "clip": 0.3, "diversity": 0.2, "curve": curve}
    return made | {"iterations": iterations, "evaluations": 1000, "budget": 1000, "seconds": 50.0 + seed}


RUNS = [
    run("mvgrpo online", 0, 0.6, [(0, 0.5, 0), (500, 0.5, 0), (1000, 0.7, 0)]),
    run("mvgrpo online", 1, 0.7, [(0, 0.5, 0), (1000, 0.6, 0)]),
    run("single view", 0, 0.7, [(0, 0.5, 0), (1000, 0.9, 0)], iterations=20),
    run("single view", 1, 0.9, [(0, 0.5, 0), (1000, 0.9, 0)], iterations=20),
]


def test_mean_and_standard_error():
    assert study_report.mean_error([0.6, 0.7]) == "0.650 +- 0.050"  # sd = 0.1 / sqrt 2, over sqrt 2
    assert study_report.mean_error([0.6]) == "0.600"
    assert study_report.mean_error([]) == "-"


def test_a_score_is_reached_where_the_curve_crosses_it():
    assert study_report.reached(RUNS[0], 0.6) == pytest.approx(750)
    assert study_report.reached(RUNS[0], 0.5) == 0
    assert study_report.reached(RUNS[1], 0.65) is None


def test_the_score_after_some_iterations():
    assert study_report.after(RUNS[2], 5) == pytest.approx(0.6)  # a quarter of twenty, so a quarter of the rise of 0.4


def test_differences_pair_the_seeds():
    assert study_report.against(RUNS, "single view", "mvgrpo online") == "0.150 +- 0.050"  # 0.1 and 0.2
    assert study_report.against(RUNS[:3], "single view", "mvgrpo online") == "0.100"


def test_a_row():
    before = {"scene": 0.5, "clip": 0.4, "diversity": 0.1}
    row = study_report.table(RUNS, ("mvgrpo online", "single view"), before, 0.6, 10)[-2]
    cells = [c.strip() for c in row.strip("|").split("|")]
    # gaps: gains of 0.1 and 0.2 less that of clip, -0.1; 0.6 after 750 and 1000 evaluations; 50 s the less disturbed run
    assert cells == (
        ["mvgrpo online", "2", "10", "0.650 +- 0.050", "", "0.300 +- 0.000", "0.250 +- 0.050", "0.200 +- 0.000"]
        + ["1 k (2 of 2)", "44", "50", "0.650 +- 0.050"]
    )


def test_every_arm_is_there_with_its_seeds_inside_the_budget_and_on_the_page():
    runs = [json.loads(line) for line in (ROOT / "docs" / "study" / "runs.jsonl").read_text().splitlines()]
    done = [r for r in runs if r["arm"] != "before"]
    assert sorted((r["arm"], r["seed"]) for r in done) == sorted(
        (a, s) for a in study.ARMS for s in range(5 if a in study.PAPER else 3)
    )
    assert all(0.9 * r["budget"] < r["evaluations"] <= r["budget"] for r in done)
    assert all(r["budget"] == study.budget_of(r["arm"], 90_000) for r in done)
    lines = study_report.tables(done, next(r for r in runs if r["arm"] == "before"))
    assert "\n".join(lines) in (ROOT / "docs" / "results.md").read_text()


def test_the_tables_go_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\n".join(["words", study_report.MARKS[0], "old", study_report.MARKS[1], "more words"]))
    study_report.insert(page, ["new"])
    assert page.read_text().splitlines() == ["words", study_report.MARKS[0], "new", study_report.MARKS[1], "more words"]
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="lacks the lines"):
        study_report.insert(page, ["new"])
