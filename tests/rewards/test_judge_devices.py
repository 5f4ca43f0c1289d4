"""Judges with published weights, at small size: on eight devices, with broken numbers, and with weights of others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax import rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.planning import flops
from tests.hlo import shapes_sent
from tests.rewards.judges import MANY

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MANY)
def test_eight_devices_give_one_devices_scores_and_each_sees_its_own_pictures(name, case):
    """Two prompts of four pictures under two texts: the image tower sees one picture a device, no collective carries one."""
    kind, options, *_ = case(name)
    judge = rewards.make(kind, options)
    images = np.random.default_rng(1).integers(0, 256, (2, 4, 20, 28, 3), np.uint8)
    texts = [["a red circle", "a blue square"], ["a black background", None]]
    one = rewards.Panel({"it": judge}).score("it", Owned(jnp.asarray(images), 4), texts)
    mesh, seen = make_mesh(2, 4, 1, prompts=2), []
    judge.prepare = lambda x, prepare=judge.prepare: seen.append(x.shape) or prepare(x)
    panel = rewards.Panel({"it": judge}, mesh)
    assert all(len(a.sharding.device_set) == 8 for a in jax.tree.leaves(panel.params["it"]))
    with jax.set_mesh(mesh):
        pictures = Owned(jax.device_put(images, rules.sharding(mesh, "prompts", "lanes")), 4)
        eight = panel.score("it", pictures, texts)
        tokens = jax.device_put(
            judge.tokens(["x"] * 4).reshape(2, 2, *judge.token_shapes.shape), rules.sharding(mesh, None, "prompts")
        )
        compiled = panel.program("it").lower(panel.params["it"], pictures.items, tokens).compile()
    np.testing.assert_allclose(eight, one, atol=1e-5 * max(1.0, np.nanmax(np.abs(one))))
    np.testing.assert_array_equal(np.isnan(eight), [[[False] * 4] * 2, [[False] * 4, [True] * 4]])
    assert set(seen) == {(8, 20, 28, 3)}
    sent = shapes_sent(compiled.as_text())
    assert sent and not [(kind, shape) for kind, shape in sent if kind == "u8" or 3 in shape[-3:] and np.prod(shape[1:]) > 1000]


@pytest.mark.parametrize("name", MANY)
def test_a_number_that_is_not_finite_makes_scores_invalid(name, case):
    kind, options, *_ = case(name)
    judge = rewards.make(kind, options)
    params = judge.load()
    tower = params["vision_model"]["encoder"]["layers"]["mlp"]["fc2"]
    tower["bias"] = tower["bias"].at[0, 1].set(jnp.nan)
    side = judge.prepare.side
    images = jnp.zeros((1, 2, side, side, 3), jnp.uint8)
    scores, valid = judge.score(params, images, jnp.asarray(judge.tokens(["x"]))[None])
    assert scores.shape == valid.shape == (1, 1, 2) and not valid.any() and not np.isfinite(scores).any()


def test_weights_that_are_not_the_judges(case, tmp_path):
    kind, options, *_ = case("hpsv2")
    whole = open(options["weights"], "rb").read()
    for name, content, expected in (
        ("cut.pt", whole[: len(whole) // 2], "a zip archive that is cut short"),
        ("pointer.pt", b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        ("none.pt", None, "no such file"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=expected):
            rewards.make(kind, options | {"weights": str(tmp_path / name)}).load()
    other = case("hpsv2", "quick")[1]["weights"]
    with pytest.raises(UserError, match="weights do not fit the model"):
        rewards.make(kind, options | {"weights": other}).load()
    with pytest.raises(UserError, match="weights do not fit the model"):
        rewards.make(kind, options | {"weights": case("aesthetic")[1]["weights"]}).load()
    with pytest.raises(UserError, match=r"expected linear layers layers\.N .* found none"):
        rewards.make("aesthetic", case("aesthetic")[1] | {"weights": options["weights"]}).load()
    with pytest.raises(UserError, match="expected CLIP's tokenizer, .* Set base to a folder with it"):
        rewards.make(kind, options | {"base": str(tmp_path)})


@pytest.mark.parametrize("name", [pytest.param("hpsv2", marks=pytest.mark.nightly), "imagereward"])
def test_arithmetic_in_16_bits_is_near(name, case):
    """Parameters of 16 bits, which plans count as such, and scores of 32 that differ by the rounding of the arithmetic."""
    kind, options, *_ = case(name)
    images = jnp.asarray(np.random.default_rng(2).integers(0, 256, (1, 3, 24, 24, 3), np.uint8))
    scores = {}
    for each in ("float32", "bfloat16"):
        judge = rewards.make(kind, options | {"dtype": each})
        params = judge.load()
        assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype(each)}
        assert jax.tree.map(lambda a: (a.shape, a.dtype), judge.network.shapes) == jax.tree.map(
            lambda a: (a.shape, a.dtype), params
        )
        scores[each] = judge.score(params, images, jnp.asarray(judge.tokens(["a red circle"]))[None]).scores
    assert scores["bfloat16"].dtype == jnp.float32
    np.testing.assert_allclose(scores["bfloat16"], scores["float32"], atol=0.05)
    assert np.abs(scores["bfloat16"] - scores["float32"]).max() > 0


def test_a_picture_is_looked_at_once_for_all_captions(case):
    """Operations grow with captions by those of the text alone: of ImageReward's two networks, the image's count once."""
    kind, options, *_ = case("imagereward")
    judge = rewards.make(kind, options)
    params, images = judge.load(), jnp.zeros((1, 2, 32, 32, 3), jnp.uint8)

    def operations(views: int) -> float:
        tokens = jnp.asarray(np.stack([judge.tokens(["a red circle"])] * views))
        return flops.count(judge.score, params, images, tokens)

    one, two, five = operations(1), operations(2), operations(5)
    assert five - two == 3 * (two - one)
    picture = judge.prepare(images[0])
    assert one - (two - one) > flops.count(lambda p, x: judge.network.bind(p).vision_model(x), params, picture)
