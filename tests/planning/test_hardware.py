"""Chips by name: of described devices, and of those that are there."""

import jax
import pytest

from mvgrpo_jax.planning import hardware

hardware.prepare_environment()


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v5p:2x2x4", "v5e:2x4", "v6e:4x4", "v5e:2x2@2", "h100:1x8", "h200:2x8"])
def test_a_jobs_chips_are_named_as_plan_takes_them(topology):
    chip, _, _ = hardware.parse(topology)
    groups = hardware.islands(chip, hardware.devices(topology))
    assert hardware.topology_of(groups) == topology


def test_a_processor_has_no_topology():
    assert hardware.topology_of([jax.devices()]) == ""
