"""The embedded world's prompts end."""

import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano import prompts
from mvgrpo_jax.prompts import load_prompts


def test_more_prompts_than_there_are(monkeypatch):
    few = prompts.embedded_prompts(128, held_out=True, things=1)
    assert len(set(few)) == 128
    monkeypatch.setattr(prompts, "STALE", 3)
    with pytest.raises(UserError, match=r"hardly more than \d+ prompts of 1 things each, 5000 were asked for"):
        prompts.embedded_prompts(5000, held_out=True, things=1)
    with pytest.raises(UserError, match="1000000000 prompts of the embedded world were asked for, at most 100000"):
        load_prompts("flux-nano", 10**9, held_out=False)
