"""Means over prompts and their intervals, against plain loops and against the normal law."""

import math

import numpy as np
import pytest

from mvgrpo_jax.evaluation.intervals import estimate, of_prompts, wins

NAN = math.nan


def test_a_prompt_is_its_mean_over_seeds_and_missing_scores_do_not_count():
    values = np.asarray([[1.0, 3.0], [NAN, 5.0], [NAN, NAN], [0.0, 0.0]])
    np.testing.assert_array_equal(of_prompts(values), [2.0, 5.0, NAN, 0.0])
    found = estimate(values)
    assert found.mean == pytest.approx(7 / 3) and found.prompts == 3
    assert found.stderr == pytest.approx(np.std([2, 5, 0]) / 3**0.5)


@pytest.mark.parametrize("seed, count, seeds", [(0, 60, 1), (1, 400, 3)])
def test_the_interval_is_that_of_resampled_prompts(seed, count, seeds):
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, size=(count, 1)) + 0.1 * rng.normal(size=(count, seeds))
    each = values.mean(1)
    means = [each[rng.integers(0, count, count)].mean() for _ in range(4000)]
    found, spread = estimate(values), each.std() / count**0.5
    np.testing.assert_allclose([found.low, found.high], np.quantile(means, [0.025, 0.975]), atol=0.12 * spread)
    np.testing.assert_allclose([found.low, found.high], each.mean() + np.asarray([-1.96, 1.96]) * spread, atol=0.2 * spread)
    assert estimate(values) == found  # the resampling is fixed


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    inside = [e.low <= 1.0 <= e.high for e in (estimate(rng.exponential(size=(50, 1))) for _ in range(200))]
    assert 0.87 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize(
    "values, expected", [([[2.0]], (2.0, NAN, NAN)), ([[NAN]], (NAN, NAN, NAN)), ([[4.0], [4.0]], (4, 4, 4))]
)
def test_few_prompts(values, expected):
    np.testing.assert_array_equal(estimate(np.asarray(values))[:3], expected)


def test_json_has_no_not_a_number():
    assert estimate(np.asarray([[2.0]])).as_json() == {"mean": 2.0, "low": None, "high": None, "stderr": 0.0, "prompts": 1}


def test_a_tie_counts_half_and_a_pair_without_a_score_not_at_all():
    ours, theirs = np.asarray([[1.0, 2.0, 3.0, NAN, 1.0]]), np.asarray([[0.0, 2.0, 4.0, 1.0, NAN]])
    np.testing.assert_array_equal(wins(ours, theirs), [[1.0, 0.5, 0.0, NAN, NAN]])
