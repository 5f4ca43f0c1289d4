"""The arms of bench/evidence.py: how long they train, and the texts they are given."""

import json

import numpy as np

from bench import evidence, study
from mvgrpo_jax.nano.world import captions


def test_iterations_of_a_budget():
    """As the committed runs of bench/study.py counted them while they ran."""
    rows = [json.loads(line) for line in study.FACTS.read_text().splitlines()]
    of = {row["arm"]: (row["iterations"], row["evaluations"]) for row in rows if row["seed"] == 0 and row["budget"] == 90_000}
    assert study.plan(study.ARMS["single view"], 90_000) == of["single view"]
    assert study.plan(study.ARMS["mvgrpo online"], 90_000) == of["mvgrpo online"]
    spent = of["single view"][1] // of["single view"][0] * 60
    assert study.plan(study.ARMS["single view"], 10**9, 60) == (60, spent)


def test_long_prompts_leave_nothing_open():
    for text in evidence.long_prompts(20):
        read = captions.read(text)
        assert read.stated() == 5 and read.is_held_out()  # four attributes of one thing, and the background


def test_wrong_attributes_are_as_many_as_said():
    rng = np.random.default_rng(0)
    texts = evidence.long_prompts(128)
    changed = 0
    for text in texts:
        before, after = captions.read(text), captions.read(evidence.wrong(text, rng, 0.2))
        changed += before.background != after.background
        changed += sum(before.things[0].stated()[k] != v for k, v in after.things[0].stated().items())
    assert abs(changed / (5 * len(texts)) - 0.2) < 0.05
    assert captions.read(evidence.wrong("three shapes", rng, 1.0)).count in (1, 2)


def test_differences_are_paired_by_seed():
    def row(arm, seed, score):
        part = {style: {"scene": score, "clip": 0.0, "quality": 0.0} for style in ("short", "long")}
        return {"study": "exact", "arm": arm, "seed": seed, "equal pictures": part, "equal evaluations": part}

    rows = [
        row("single view", 0, 0.5),
        row("single view", 1, 0.7),
        row("prompt weight 1/2", 0, 0.6),
        row("prompt weight 1/2", 1, 0.8),
    ]
    assert evidence.table(rows, "exact", "equal pictures")[-1].endswith("| 0.100 +- 0.000 | 0.100 +- 0.000 |")


def test_the_gap_of_a_judge_and_the_truth():
    """By hand: the judge gains 0.2 of deviation 0.1, the truth 0.05 + 0.5 * 0.1 of deviation 0.2."""
    part = lambda hps, scene, quality: {s: {"hps": hps, "scene": scene, "quality": quality} for s in ("short", "long")}
    deviation = {style: {"hps": 0.1, "truth": 0.2} for style in ("short", "long")}
    start = {"study": "before", "arm": "learned", "seed": 0, "equal pictures": part(1.0, 0.6, 0.7), "deviation": deviation}
    row = {"study": "learned", "arm": "single view", "seed": 0, "equal pictures": part(1.2, 0.65, 0.8)}
    found = evidence.hacking([start, row, row | {"seed": 1}], "learned", "equal pictures")[-1]
    assert found == "| single view | 2 |" + " 2.000 +- 0.000 | 0.500 +- 0.000 | 1.500 +- 0.000 |" * 2


def test_a_run_that_another_study_had_is_not_made_again():
    """The lag's first arm is the default of configs/flux_nano.py, as the exact judge's arm of equal weights is."""
    rows = [
        {"study": "before", "arm": "before", "seed": 1},
        {"study": "exact", "arm": "prompt weight 1/11", "seed": 1, "cut": 34},
    ]
    found = evidence.same(rows, "lag", "none", 1)
    assert found == {"study": "lag", "arm": "none", "seed": 1, "cut": 34, "of": "exact, prompt weight 1/11"}
    assert evidence.same(rows, "lag", "none", 0) is None and evidence.same(rows, "lag", "one step", 1) is None


def test_the_files_of_a_study(tmp_path, monkeypatch):
    """Its prompts are those of two styles, and the wrong captions are as many as the right ones."""
    monkeypatch.setattr(evidence, "SHORT", 3)
    monkeypatch.setattr(evidence, "LONG", 2)
    monkeypatch.setattr(evidence, "captions", lambda out: (out / "captions.jsonl").write_text(json.dumps(CAPTIONS) + "\n"))
    places = evidence.files(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "held_out.jsonl").read_text().splitlines()]
    assert [line["style"] for line in lines] == ["short"] * 3 + ["long"] * 2
    faulty = json.loads((tmp_path / "wrong.jsonl").read_text())
    assert faulty["prompt"] == CAPTIONS["prompt"] and places["wrong"] == str(tmp_path / "wrong.jsonl")
    assert [c["operation"] for c in faulty["captions"]] == ["addition", "deletion"]
    assert all(captions.read(c["text"]).stated() for c in faulty["captions"])


CAPTIONS = {
    "prompt": "a red circle",
    "captions": [{"text": "a small red circle", "operation": "addition"}, {"text": "a circle", "operation": "deletion"}],
}
