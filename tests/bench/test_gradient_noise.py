"""The study of gradients of views: sketches keep inner products, and the table's numbers are those of plain sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import gradient_noise as noise
from tests.runs import small_config


def test_a_sketch_keeps_inner_products(monkeypatch):
    monkeypatch.setattr(noise, "WIDTH", 4096)
    rng = np.random.default_rng(0)
    a = {"x": rng.normal(size=(300, 70)).astype(np.float32), "y": rng.normal(size=5000).astype(np.float32)}
    b = {"x": a["x"] + 0.5 * rng.normal(size=(300, 70)).astype(np.float32), "y": a["y"] * 2}
    flat = lambda tree: np.concatenate([v.ravel() for v in tree.values()])
    want = noise.cosine(flat(a), flat(b))
    assert noise.cosine(np.asarray(noise.sketch(a)), np.asarray(noise.sketch(b))) == pytest.approx(want, abs=0.03)


def test_weights_of_views():
    np.testing.assert_allclose(noise.weights_of(None, 3, 5), [0.25, 0.25, 0.25, 0.25, 0])
    np.testing.assert_allclose(noise.weights_of(0.5, 2, 4), [0.5, 0.25, 0.25, 0])


def test_the_table_of_gradients_with_a_known_signal():
    """A signal that all batches share and noise of each half: power of the signal is 1 of 1 + 1/2 in a batch's mean of halves,
    and captions that repeat the prompt's gradient change nothing."""
    rng = np.random.default_rng(1)
    signal = rng.normal(size=4096) / 64
    prompt = signal + rng.normal(size=(64, 2, 1, 4096)) / 64
    table = noise.rows(np.repeat(prompt, 3, axis=2))
    assert {row["captions"] for row in table} == {0, 1, 2} and len(table) >= 9
    for row in table:
        assert row["shared power"] == pytest.approx(1 / 1.5, abs=0.02)
        assert row["halves"] == pytest.approx(0.5, abs=0.02)
        # Against the mean of 63 others, whose noise is 1/2 of 63.
        assert row["with prompt"] == pytest.approx(1 / (1.5 * (1 + 0.5 / 63)) ** 0.5, abs=0.02)


@pytest.mark.nightly
def test_halves_and_views_add_up_to_the_updates_gradient():
    batches = noise.Batches(small_config(group_size=4))
    prompts = [str(p) for p in next(batches.prompts)]
    made = batches.make(0, prompts)
    assert made["gradients"].shape[:2] == (2, 3) and made["scores"].shape[0] == 3
    from mvgrpo_jax.run import drawing
    from mvgrpo_jax.run import iteration as stages
    from mvgrpo_jax.run.metrics import Clock

    run, clock = batches.run, Clock()
    with jax.set_mesh(run.mesh):
        samples = drawing.sample(run, 0, batches.params, prompts, None, clock)
        batch, _ = stages.make_batch(run, 0, samples, *stages.judge(run, 0, samples, clock), clock)
        even = batch._replace(weight=jnp.ones_like(batch.weight))
        whole = np.asarray(batches.gradient(batches.params, even))
    run.close()
    total = made["gradients"].sum((0, 1))
    np.testing.assert_allclose(total, whole, atol=1e-4 * np.abs(whole).max())
