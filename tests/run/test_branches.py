"""An update by branches: the run without it but for rounding, and the order in which branches are served."""

import numpy as np
import pytest

from mvgrpo_jax.configuration import checks
from mvgrpo_jax.enhancers.online import OnlineSession
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.captioner import EmbeddedCaptioner
from mvgrpo_jax.run import loop, programs
from tests.runs import leaves, numbers, small_config


def config_of(by_branch):
    c = small_config(iterations=2)
    c.eval.every = c.log.images_every = 0
    c.rewards.clip, c.rewards.scene = 0.0, 1.0
    c.optimizer.update({"learning_rate": 1e-2, "eps": 1e-4, "warmup": 0})  # steps in proportion to gradients
    c.train.by_branch = by_branch
    return c


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """{by_branch: (workdir, the order of captions and gradients)}, of runs that lose one caption in the first iteration."""
    found = {}
    for by_branch in (False, True):
        events, captions, add = [], OnlineSession.captions, programs.Programs.add.func

        def lost(self, branch, events=events, captions=captions):
            events.append(("captions", branch))
            views = captions(self, branch)
            if len(events) == 1:
                views[0][1] = None
            return views

        def adding(self, events=events, add=add):
            program = add(self)
            return lambda *a: events.append(("gradient", int(a[4]))) or program(*a)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EmbeddedCaptioner, "remote", True)  # as a service: its captions are asked for branch by branch
            patch.setattr(OnlineSession, "captions", lost)
            patch.setattr(programs.Programs.add, "func", adding)
            workdir = tmp_path_factory.mktemp("by_branch" if by_branch else "at_once")
            loop.train(config_of(by_branch), workdir)
        found[by_branch] = workdir, events
    return found


@pytest.mark.nightly
def test_the_update_is_that_of_all_branches_at_once(both):
    (want, _), (got, _) = both[False], both[True]
    for a, b in zip(leaves(got, 2, config_of(True))[0], leaves(want, 2, config_of(False))[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(numbers(got), numbers(want), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6), name
    assert numbers(got)[0]["views/active"] < 3 and numbers(got)[0]["loss"] != 0


@pytest.mark.nightly
def test_a_branchs_gradient_does_not_wait_for_captions_of_the_next(both):
    """The shorter tail comes first."""
    _, events = both[True]
    once = [("captions", 1), ("gradient", 1), ("captions", 0), ("gradient", 0)]
    assert events == once * 2
    assert both[False][1] == [("captions", 1), ("captions", 0)] * 2


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("train.passes", 2, "train.passes=2"),
        ("train.async_steps", 1, "train.async_steps=1"),
        ("algorithm.mvgrpo.combine", "whitened", "depends on others"),
        ("algorithm.name", "flow_grpo", "does not go with flow_grpo"),
    ],
)
def test_what_needs_all_branches_is_refused(key, value, said):
    config = config_of(True)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"by_branch .*{said}.*set it to False"):
        checks.check(config)
