"""The compiled programs at full size, by their shapes."""

import jax
import jax.numpy as jnp
import pytest

from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.parallel.mesh import islands
from mvgrpo_jax.planning.abstract import AbstractRun


def largest(program, *arguments) -> int:
    """Bytes of the largest array of a program."""
    found = 0

    def walk(jaxpr):
        nonlocal found
        for equation in jaxpr.eqns:
            found = max([found, *(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars if hasattr(v.aval, "size"))])
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
            ):
                if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                    walk(getattr(value, "jaxpr", value))

    walk(jax.make_jaxpr(program)(*arguments).jaxpr)
    return found


@pytest.mark.parametrize("pixels, at_once", [(512, 12), (1024, 3)])
def test_pictures_are_decoded_a_few_at_a_time(pixels, at_once):
    """Of a training branch and of an evaluation alike: FLUX.1-dev's decoder holds the last activations of at most 12 pictures
    of 512 x 512 at once."""
    config = arguments.load("configs/mvgrpo_flux.py")
    config.prompts_per_iteration, config.mesh.auto = 1, False
    config.image.height = config.image.width = pixels
    run = AbstractRun(config, islands(jax.devices()))
    programs, decoder = run.programs, run.decoder
    latents = lambda *lead: jax.ShapeDtypeStruct((*lead, *programs.latent_shape), jnp.float32)
    one = largest(programs.decode, decoder, latents(1, 1))
    assert 3 * at_once * one // 4 <= largest(programs.decode, decoder, latents(1, 48)) <= at_once * one
    assert largest(programs.decode_items, decoder, latents(programs.items)) <= at_once * one
