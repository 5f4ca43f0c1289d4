"""What the tests of judges share."""

import pytest


@pytest.fixture(scope="session")
def case(tmp_path_factory):
    """case(name, variant) of MAKERS, made once."""
    from tests.rewards.judges import MAKERS

    made = {}

    def make(name: str, variant: str = "exact"):
        if (name, variant) not in made:
            made[name, variant] = MAKERS[name](tmp_path_factory.mktemp(f"{name}-{variant}".replace(" ", "-")), variant)
        return made[name, variant]

    return make
