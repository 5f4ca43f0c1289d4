"""Small random models that several files of tests judge with."""

import pytest


@pytest.fixture(scope="session")
def hpsv3(tmp_path_factory):
    """make(variant) -> a peer of HPSv3 with its files, made once."""
    from tests.rewards import hpsv3_peer

    made = {}

    def make(variant: str = "grouped") -> hpsv3_peer.Peer:
        if variant not in made:
            made[variant] = hpsv3_peer.Peer(tmp_path_factory.mktemp(variant), variant)
        return made[variant]

    return make
