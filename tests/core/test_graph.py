"""Plans: counts that the papers state."""

import pytest

from mvgrpo_jax.core.graph import shared_anchor, window


def test_the_papers_rollout_has_592_evaluations():
    graph = shared_anchor(16, (0, 2, 4, 6), 12)
    assert graph.evaluations == 16 + 12 * (15 + 13 + 11 + 9) == 592
    order, stages = graph.staircase((0, 1, 2, 3))
    assert order == [(0, 0), (1, 0), (2, 0), (3, 0)]  # the tail of step 0 is the longest, two alone, two with the next ...
    assert [(s.joining, len(s.points) - 1) for s in stages] == [(1, 2), (1, 2), (1, 2), (1, 9)]
    assert (graph.branches, graph.states, graph.images) == (4, 1, 48)


def test_a_last_trained_step_has_no_tail():
    graph = shared_anchor(4, (1, 3), 3)
    assert graph.evaluations == 4 + 3 * (2 + 0)


def test_independent_samples():
    graph = window(10, 0, 10, 6, trained=range(9))
    assert graph.evaluations == 60 and graph.states == 6 and graph.branches == 1
    same = window(10, 2, 5, 6, same_noise=True)
    assert same.noises == 1 and same.lanes() == [1, 6, 6] and same.trained == (2, 3, 4)
    assert same.evaluations == 3 + 2 * 6 + 5 * 6  # what the group shares is evaluated once


@pytest.mark.parametrize("trained", [(), (3, 1), (0, 0), (-1,), (4,)])
def test_trained_steps_must_be_on_the_grid(trained):
    with pytest.raises(ValueError, match="ascend within 0 .. 3"):
        shared_anchor(4, trained, 2)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        shared_anchor(4, (0,), 1)
