"""Judges with published weights, at small size: from picture files to torch's numbers, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mvgrpo_jax import rewards
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.rewards import scoring
from tests.hlo import shapes_sent
from tests.rewards.judges import MAKERS

CAPTIONS = [
    "a red circle on a white background",
    "",
    "красный круг, 猫 と 犬 🙂 naïve café",
    " ".join(f"word{i}" for i in range(120)),
    "It’s “ﬁne”,\u3000ＷＩＤＥ &amp; <b>bold</b>\n  SHOUTED",
]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """case(name, variant) of MAKERS, made once."""
    made = {}

    def make(name: str, variant: str = "exact"):
        if (name, variant) not in made:
            made[name, variant] = MAKERS[name](tmp_path_factory.mktemp(f"{name}-{variant}".replace(" ", "-")), variant)
        return made[name, variant]

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files, and each as Pillow's RGB."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    noise = lambda *shape: generator.integers(0, 256, shape, np.uint8)
    made = {
        "tall.png": Image.fromarray(noise(91, 40, 3)),
        "clear.png": Image.fromarray(noise(30, 24, 4), "RGBA"),
        "point.png": Image.fromarray(noise(1, 1, 3)),
        "square.png": Image.fromarray(noise(32, 32, 3)),
        "wide.png": Image.fromarray(noise(31, 70, 3)),
        "gray.png": Image.fromarray(noise(24, 29)),
    }
    for name, picture in made.items():
        picture.save(folder / name)
    rgba = np.asarray(made["clear.png"], np.float32) / 255
    over = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    made["clear.png"] = Image.fromarray(np.round(over * 255).astype(np.uint8))
    return [folder / name for name in made], [picture.convert("RGB") for picture in made.values()]


@pytest.mark.parametrize("variant", ["exact", "quick"])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore:the .* judge reads")
def test_scores_from_files_are_torchs(name, variant, case, pictures):
    kind, options, peer = case(name, variant)
    shown = {"exact": slice(0, 3), "quick": slice(3, 6)}[variant]  # each size is a program of its own
    paths, images = (items[shown] for items in pictures)
    words = [f"judge.{key}={value}" for key, value in options.items()] + [f"judge.kind={kind}"]
    judges = scoring.make_judges(["judge"], words)
    got, _ = scoring.score(judges, paths, CAPTIONS, all_pairs=True)
    want = np.concatenate([peer([image], CAPTIONS) for image in images])
    tolerance = 1e-4 * max(1.0, np.abs(want).max())
    np.testing.assert_allclose(got["judge"], want, atol=tolerance)
    assert np.ptp(want, axis=0).min() > 10 * tolerance  # the pictures differ, so that the comparison says something
    assert name == "aesthetic" or np.ptp(want, axis=1).min() > 10 * tolerance


@pytest.mark.parametrize("name", MAKERS)
def test_eight_devices_give_one_devices_scores_and_each_sees_its_own_pictures(name, case):
    """Two prompts of four pictures under two texts: the image tower sees one picture a device, no collective carries one."""
    kind, options, _ = case(name)
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
    np.testing.assert_allclose(eight.scores, one.scores, atol=1e-5 * max(1.0, np.abs(one.scores).max()))
    np.testing.assert_array_equal(eight.valid, [[[True] * 4] * 2, [[True] * 4, [False] * 4]])
    assert set(seen) == {(8, 20, 28, 3)}
    sent = shapes_sent(compiled.as_text())
    assert sent and not [(kind, shape) for kind, shape in sent if kind == "u8" or 3 in shape[-3:] and np.prod(shape[1:]) > 1000]


@pytest.mark.parametrize("name", MAKERS)
def test_a_number_that_is_not_finite_makes_scores_invalid(name, case):
    kind, options, _ = case(name)
    judge = rewards.make(kind, options)
    params = judge.load()
    tower = params["vision_model"]["encoder"]["layers"]["mlp"]["fc2"]
    tower["bias"] = tower["bias"].at[0, 1].set(jnp.nan)
    side = judge.prepare.side
    images = jnp.zeros((1, 2, side, side, 3), jnp.uint8)
    scores, valid = judge.score(params, images, jnp.asarray(judge.tokens(["x"]))[None])
    assert scores.shape == valid.shape == (1, 1, 2) and not valid.any() and not np.isfinite(scores).any()


def test_weights_that_are_not_the_judges(case, tmp_path):
    kind, options, _ = case("hpsv2")
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
