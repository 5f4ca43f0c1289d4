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


def test_bounds_of_segments():
    """A window of 2 in 6 steps, displaced by 3: the ODE before it grows, the window moves as a whole."""
    before, inside = window(6, 0, 2, 4, moving=True).segments
    assert [(s.first(3), s.count(3), s.last(3)) for s in (before, inside)] == [(0, 3, 2), (3, 2, 4)]
    assert [(s.first(0), s.count(0)) for s in (before, inside)] == [(0, 0), (0, 2)]
    assert list(inside.walked) == [0, 1] and list(inside.recorded((1, 4))) == [1] and not len(before.recorded((0, 1)))
    fanning, rest = window(6, 1, 4, 4, same_noise=True).segments
    assert (fanning.start, fanning.stop, fanning.fan) == (0, 2, 4) and list(fanning.walked) == [0]
    assert fanning.last(0) == 1 and list(fanning.recorded((1, 2, 3))) == [] and list(rest.recorded((1, 2, 3))) == [2, 3]
    assert (fanning.first(2), fanning.count(2), fanning.last(2), rest.first(2)) == (0, 4, 3, 4)
