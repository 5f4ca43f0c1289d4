"""The GPU benchmark at toy size on a CPU: its columns, its operations against closed forms, and rows that fail."""

import json

import pytest

from bench import gpu, gpu_cases
from mvgrpo_jax.models import flux
from mvgrpo_jax.planning import hardware


def measured(case, folder):
    report = gpu.Report(folder)
    gpu.measure(case, report, tiny=True)
    return {row["row"]: row for row in report.rows}


@pytest.mark.nightly
def test_a_lora_run_is_measured_and_counted(tmp_path):
    rows = measured("lora", tmp_path)
    assert list(rows) == ["lora: rollout", "lora: update", "lora: ratio", "lora: decode", "lora: encode"]
    assert not [row["error"] for row in rows.values() if "error" in row]
    config = gpu_cases.config_of("lora", tiny=True)
    made = gpu_cases.AbstractRun(config, [gpu_cases.jax.devices()[:1]])
    one = flux.forward_flops(made.pipeline.flux_config, made.programs.policy.tokens, made.programs.text_length)
    # An anchor of 4 steps; 2 draws at steps 0 and 1, finished in 3 and 2. Adapters add to the closed form of the network.
    assert 1.0 < rows["lora: rollout"]["operations"] / ((4 + 2 * 3 + 2 * 2) * one) < 1.2
    update = rows["lora: update"]
    evaluations = 2 * 2  # views x trained steps; forward and the gradient of activations; remat does a block's forward again
    # but for its last products
    assert 2.0 < update["model_operations"] / (evaluations * one) < 2.6
    assert 0.5 < (update["operations"] - update["model_operations"]) / (evaluations * one) < 1.0
    assert "the rollout's own: ratio - 1 from" in rows["lora: ratio"]["note"]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [c.strip() for c in lines[2].strip("|").split("|")] == list(gpu.HEAD)
    assert len([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]) == len(rows)


def test_kernels(tmp_path):
    rows = measured("kernels", tmp_path)
    assert rows["matmul"]["operations"] == 2 * 256**3
    assert rows["attention xla, forward"]["operations"] == 2 * 2 * 64 * 64 * 2 * 16


def test_a_row_that_fails_says_why_and_the_next_is_measured(tmp_path, monkeypatch):
    def rows(case, tiny):
        yield "broken", lambda: 1 / 0
        yield "whole", lambda: {"seconds": 2.0, "operations": 10**12}

    monkeypatch.setattr(gpu_cases, "rows", rows)
    table = measured("any", tmp_path)
    assert "ZeroDivisionError" in table["broken"]["error"] and table["whole"]["seconds"] == 2.0


def test_a_line_of_the_table():
    row = {"row": "x", "seconds": 2.0, "operations": 8 * 10**12, "model_operations": 6 * 10**12, "peak_flops": 10e12}
    row |= {"peak": 3 * gpu.GIB, "before": gpu.GIB, "plan": 2 * gpu.GIB, "rate": 5.0, "unit": "pictures/s", "compile_s": 7.2}
    assert gpu.cells(row, 8e12) == ["x", "2", "8", "4", "40%", "50%", "30%", "5 pictures/s", "3.0", "2.0", "1.50", "7", ""]
    assert gpu.cells(row | {"before": row["peak"]}, 0.0)[8:11] == ["<= 3.0", "2.0", "<= 1.50"]


def test_every_program_has_a_figure_of_plan():
    planned = json.loads(gpu.PLANS.read_text())
    for chip, cases in planned.items():
        for case, (_, _, wanted) in gpu_cases.RUNS.items():
            names = {"ratio": "old_densities", "encode": "encode_views"}
            assert set(cases[case]) == {names.get(row, row) for row in wanted if row != "precision"}
            assert all(0 < size < hardware.CHIPS[chip].memory for size in cases[case].values())


@pytest.mark.nightly
@pytest.mark.parametrize("case", ["full", "stored", "judges", "peers"])
def test_the_other_cases_are_measured(case, tmp_path):
    rows = measured(case, tmp_path)
    assert rows and not [row["error"] for row in rows.values() if "error" in row]
