"""A run goes on with the prompts that it began with, or not at all."""

from types import SimpleNamespace

import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import streaming
from mvgrpo_jax.run import loop, metrics
from mvgrpo_jax.run.loop import train
from tests.runs import small_config


def test_processes_that_read_other_prompts_do_not_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.hosts, "exchange", lambda text: [text, streaming.digest(["a blue square"])])
    programs = SimpleNamespace(algorithm=SimpleNamespace(chooser=None))
    run = SimpleNamespace(config=small_config(), programs=programs, prompts=["a red circle"], shares=())
    with pytest.raises(UserError, match="processes of this run read different prompts from flux-nano-one"):
        loop.begin(run, {}, tmp_path)


def config(path, **changes):
    c = small_config(**changes)
    c.prompts.train, c.prompts.train_count = str(path), 0
    c.eval.every, c.views.count, c.train.view_chunk = 0, 0, 0
    return c


@pytest.mark.nightly
def test_a_run_refuses_other_prompts_than_it_began_with(tmp_path):
    path = tmp_path / "prompts.txt"
    texts = ["a red circle on a white background", "a blue square", "a green triangle", "a yellow circle"]
    path.write_text("\n".join(texts))
    train(config(path, iterations=1), tmp_path / "run")
    path.write_text("\n".join(texts[:3] + ["a purple diamond"]))
    with pytest.raises(UserError, match="prompts.txt are not those that the run .* began with: a file changed"):
        train(config(path, iterations=2), tmp_path / "run")
    path.write_text("\n".join(texts + ["A  red CIRCLE on a white background"]))  # a repeat, which is dropped
    train(config(path, iterations=2), tmp_path / "run")
    assert [row["iteration"] for row in metrics.read(tmp_path / "run")] == [0, 1]
