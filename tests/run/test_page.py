"""What pages share."""

from pathlib import Path

import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import page


def test_runs_are_named_by_the_ends_of_their_paths():
    assert page.names([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert page.names([Path("/a/s/x"), Path("/b/s/x")]) == ["a/s/x", "b/s/x"]
    with pytest.raises(UserError, match="is given twice"):
        page.names([Path("/a/x"), Path("/a/x")])
