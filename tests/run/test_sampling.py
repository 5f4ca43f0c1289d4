"""Pictures in batches: which rows a batch has, how it is padded, and that one program paints them all."""

import numpy as np

from mvgrpo_jax.run import sampling


def test_batches_are_of_one_size_and_the_last_one_is_padded(random_pipeline):
    painter = sampling.Painter(sampling.load(random_pipeline("narrow")), steps=1, height=8, width=12)
    texts, warnings = painter.tokenize([f"prompt {i}" for i in range(5)])
    assert not warnings and painter.shape == (2 * 3, 64)
    latents = sampling.initial_latents(7, 0, 5, painter.shape)
    run, rows, counts = painter.run, [], []

    def recorded(params, ids_clip, ids_t5, x, key):
        assert (ids_clip == texts[0][rows_of(x, latents)]).all() and (ids_t5 == texts[1][rows_of(x, latents)]).all()
        rows.append(rows_of(x, latents))
        return run(params, ids_clip, ids_t5, x, key)

    painter.run = recorded
    images = painter.paint(texts, latents, batch=2, painted=counts.append)
    assert rows == [[0, 1], [2, 3], [4, 4]] and counts == [2, 2, 1]
    assert run._cache_size() == 1
    at_once = painter.paint(texts, latents)
    assert rows[3:] == [[0, 1, 2, 3, 4]]
    assert images.shape == (5, 8, 12, 3) and images.dtype == np.float32 and images.std() > 0.01
    np.testing.assert_allclose(images, at_once, atol=1e-5)


def rows_of(x, latents) -> list[int]:
    return [next(i for i, row in enumerate(latents) if (row == one).all()) for one in x]
