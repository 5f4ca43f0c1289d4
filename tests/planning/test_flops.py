"""The counter against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from mvgrpo_jax.models import flux
from mvgrpo_jax.planning import flops
from tests import tiny


def test_matrix_product_scan_and_convolution():
    a, b = jnp.zeros((5, 7)), jnp.zeros((7, 3))
    assert flops.count(lambda a, b: a @ b, a, b) == 2 * 5 * 7 * 3
    assert (
        flops.count(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=9)[0], jnp.zeros((4, 4))) == 9 * 2 * 64
    )
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert flops.count(conv, jnp.zeros((2, 6, 5, 3)), jnp.zeros((3, 3, 3, 8))) == 2 * (2 * 6 * 5 * 8) * (3 * 3 * 3)
    with pytest.raises(ValueError, match="while loop"):
        flops.count(lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x), jnp.eye(2))


@pytest.mark.parametrize("config, img, txt", [(tiny.CONFIG, 4, 3), (flux.FluxConfig(), 1024, 256)], ids=["tiny", "FLUX.1-dev"])
def test_flux_closed_form(config, img, txt):
    net = flux.flux(config)
    shape = jax.ShapeDtypeStruct
    args = (
        net.shapes,
        shape((1, img, config.in_channels), jnp.float32),
        shape((1,), jnp.float32),
        shape((1, txt, config.joint_attention_dim), jnp.float32),
        shape((1, config.pooled_projection_dim), jnp.float32),
        shape((img, 3), jnp.float32),
        shape((1,), jnp.float32),
    )
    assert flops.count(net, *args) == flux.forward_flops(config, img, txt)


def test_flux_dev_costs_what_is_published():
    assert flux.forward_flops(flux.FluxConfig(), 1024, 256) == pytest.approx(17.7e12, rel=0.01)
