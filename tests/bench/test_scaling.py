"""The scaling benchmark: totals of an iteration, lines through depths, what is kept, and the plot; nothing is compiled."""

import json

import pytest

from bench import scaling, timing
from mvgrpo_jax.planning.compilation import Cost


def cost(name, calls, inside, between, exposed, seconds):
    return Cost(name, calls, 1, 1, 1, 1, 10, inside, between, 0.0, exposed, seconds, 2.0)


def test_totals_count_calls():
    row = scaling.totals([cost("rollout", 1, 100, 10, 0.5, 3.0), cost("update", 2, 7, 3, 0.25, 1.0)])
    assert row == {"received": 130, "exposed": 1.0, "seconds": 5.0, "compile_s": 4.0, "errors": []}


def rows_of(*depths, bend=0.0):
    """received = 5 + 2 depth; exposed constant; seconds = depth + bend depth^2."""
    return {d: {"received": 5.0 + 2 * d, "exposed": 0.5, "seconds": d + bend * d * d, "compile_s": 10.0 + d} for d in depths}


def test_a_depth_off_the_line_is_seen_and_not_extended():
    apart = scaling.departures(rows_of(1, 2, 3, bend=0.1))
    assert apart["received"] == apart["exposed"] == 0.0
    assert apart["seconds"] == pytest.approx(abs((1.1 + 2 * 1.3) - 3.9) / 3.9)
    straight = {figure: value < scaling.LINEAR for figure, value in apart.items()}
    assert straight == {"received": True, "exposed": True, "seconds": False}
    full = scaling.at_full_depth(rows_of(1, 2, bend=0.1), straight)
    assert full == {"received": 5.0 + 2 * 19, "exposed": 0.5, "seconds": pytest.approx(2.4)}


@pytest.mark.parametrize("topology, count", [("h200:4x8", 32), ("v5p:4x4x4@2", 128), ("v6e:8x8", 64)])
def test_devices_of_a_topology(topology, count):
    assert scaling.devices_of(topology) == count


def test_what_is_recorded_is_not_compiled_again_and_all_is_drawn(tmp_path, monkeypatch):
    from mvgrpo_jax.planning import compilation

    asked = []

    def measure(config, topology, only):
        double = int(config.pipeline.partition(":")[2].partition("+")[0])
        asked.append((topology, config.prompts_per_iteration, double))
        run = type("Run", (), {"mesh": type("Mesh", (), {"shape": {"data": 1}})})
        return [cost("update", 1, 2**30 * double, 0, 0.1, 1.0 * double)], run

    monkeypatch.setattr(compilation, "measure", measure)
    out, topologies = tmp_path / "scaling.json", ["h200:1x8", "h200:2x8"]
    rows, about = scaling.points(out, topologies, strong=8)
    # Weak and strong are one at the first topology.
    assert asked == [("h200:1x8", 8, d) for d in (1, 2, 3)] + [("h200:2x8", p, d) for p in (16, 8) for d in (1, 2)]
    assert [(r["devices"], r["scaling"], r["prompts"]) for r in rows] == [
        (8, "weak", 8),
        (8, "strong", 8),
        (16, "weak", 16),
        (16, "strong", 8),
    ]
    assert all(r["received"] == 19 * 2**30 and r["seconds"] == 19.0 for r in rows)
    assert about["compile_s"] == {1: 2.0, 2: 2.0, 3: 2.0}
    assert scaling.points(out, topologies, strong=8)[0] == rows and len(asked) == 7
    assert set(json.loads(out.read_text())) == {scaling.key_of(*a) for a in asked}
    image = tmp_path / "scaling.png"
    scaling.draw(rows, about, image)
    assert image.stat().st_size > 5000


def test_the_config_is_the_papers_with_few_blocks():
    c = scaling.config_of(32, 2)
    assert c.pipeline == "FLUX.1-dev:2+4" and c.prompts_per_iteration == 32
    assert c.sampling.steps == 16 and c.group_size == 12 and c.train.remat == "full"
    assert timing.FOLDER.name == "bench"
