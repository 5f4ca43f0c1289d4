"""HPSv3 on eight devices, what it costs at full size, and the keys of the published file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLModel

from mvgrpo_jax import rewards
from mvgrpo_jax.convert import qwen2_vl as files
from mvgrpo_jax.convert.sources import DTYPES, Described
from mvgrpo_jax.convert.weights import checked
from mvgrpo_jax.models import qwen2_vl
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.planning import flops
from mvgrpo_jax.rewards.kinds import hpsv3 as kind
from tests.hlo import shapes_sent
from tests.models.qwen2_vl_peers import old_name
from tests.rewards.hpsv3_peer import judge_of
from tests.rewards.test_rewards import judged


@pytest.mark.nightly
@pytest.mark.parametrize("sizes", [(2, 4, 1), (2, 2, 2)])
def test_each_of_eight_devices_judges_its_own_pictures(hpsv3, sizes):
    """Two prompts of four pictures under three captions: the scores are those of one device. Where the tensor axis is not used,
    an eighth of the operations falls to each, and what travels is weights and captions."""
    judge, rng = judge_of(hpsv3(), chunk=8), np.random.default_rng(2)
    images = rng.integers(0, 256, (2, 4, 48, 56, 3), np.uint8)
    texts = [["a cat", "a red table"], ["", "a cat on it"], ["a red table and a cat, " * 9, None]]
    want = judged(judge, images, texts)
    mesh = make_mesh(*sizes, prompts=2)
    panel = rewards.Panel({"it": judge}, mesh)
    assert all(len(a.sharding.device_set) == 8 for a in jax.tree.leaves(panel.params))
    with jax.set_mesh(mesh):
        placed = Owned(jax.device_put(images, rules.sharding(mesh, "prompts", "lanes")), 4)
        got = panel.score("it", placed, texts)
        tokens = jax.tree.map(
            lambda a: jax.device_put(a.reshape(3, 2, *a.shape[1:]), rules.sharding(mesh, None, "prompts")),
            judge.tokens([text or "" for view in texts for text in view]),
        )
        compiled = panel.program("it").lower(panel.params["it"], placed.items, tokens).compile()
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.isnan(got).sum() == 4 == np.isnan(got[2, 1]).sum()  # the text that is missing
    one = jax.jit(judge.score).lower(judge.load(), jnp.asarray(images), jax.tree.map(np.asarray, tokens)).compile()
    assert compiled.cost_analysis()["flops"] < one.cost_analysis()["flops"] / (6 if sizes[2] == 1 else 4)
    if sizes[2] == 1:
        seen, grid = kind.patches(images[0], judge.config.vision, kind.PIXELS)
        patches, seen = seen.shape[1], grid[0] * grid[1] // 4
        begin = len(judge.before) + seen + len(judge.after)
        sent = shapes_sent(compiled.as_text())
        assert sent and not [s for s in sent if s[0] == "u8" or {patches, seen, begin} & set(s[1])]


def test_a_caption_more_costs_its_own_tokens():
    """At full size, for a picture of 1024 x 1024 and 13 captions of 40 tokens, which are 51 with what follows: at most 18% of
    the operations of 13 whole sequences."""
    judge = kind.HPSv3Reward.published("HPSv3.safetensors")
    shape, params = jax.ShapeDtypeStruct, judge.network.shapes
    picture = shape((1, 1, 1024, 1024, 3), jnp.uint8)
    length = next(n for n in kind.LENGTHS if n >= 51)
    tokens = {"ids": shape((13, 1, length), jnp.int32), "last": shape((13, 1), jnp.int32)}
    shared = flops.count(judge.score, params, picture, tokens)
    one = {k: shape((1, *x.shape[1:]), jnp.int32) for k, x in tokens.items()}

    def plain(params, ids, seen):
        net = judge.network.bind(params)
        return net.head(net(ids, seen, (32, 32), qwen2_vl.sequential(ids.shape[1])))

    whole = 766 + 40 + 11 + 8
    inputs = shape((1, whole), jnp.int32), shape((1, 1024, 1176), jnp.bfloat16)
    assert shared <= 0.18 * 13 * flops.count(plain, params, *inputs)
    # Two operations a parameter and token, and the attention, whose keys are those of the beginning and its own.
    of_layers = sum(x.size for x in jax.tree.leaves(params["model"]["layers"]))
    more = (shared - flops.count(judge.score, params, picture, one)) / 12
    assert more == pytest.approx(2 * length * of_layers + 28 * 4 * length * (766 + length) * 3584, rel=0.01)


def test_every_key_of_the_published_file_is_read():
    """The keys of Qwen2-VL-7B by transformers, without arrays, under the names of its version 4, with the head."""
    vision = dict(depth=32, embed_dim=1280, hidden_size=3584, num_heads=16)
    text = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28)
    text |= dict(num_key_value_heads=4, vocab_size=kind.VOCABULARY, rms_norm_eps=1e-6)
    with torch.device("meta"):
        model = Qwen2VLModel(Qwen2VLConfig(text_config=text, vision_config=vision))
    keys = {old_name(n): tuple(t.shape) for n, t in model.state_dict().items()}
    keys["lm_head.weight"] = (kind.VOCABULARY, 3584)
    for index, (out, width) in {0: (1024, 3584), 3: (16, 1024), 5: (2, 16)}.items():
        keys |= {f"rm_head.{index}.weight": (out, width), f"rm_head.{index}.bias": (out,)}
    network = kind.HPSv3Reward.published("x").network
    for prefix in ("", "model."):
        described = Described({prefix + n: shape for n, shape in keys.items()}, DTYPES["BF16"])
        source, table = checked(network, files.Typed(files.Renamed(described, files.names(described.names())), jnp.bfloat16))
        assert set(table) == set(keys) - {"lm_head.weight"} == set(source.names())
        assert source.dtype("rm_head.0.weight") == np.float32 and source.dtype("visual.merger.mlp.0.bias") == jnp.bfloat16
    assert sum(np.prod(shape) for shape in keys.values()) == pytest.approx(8.29e9, rel=0.001)
    placed = rules.parameter_shardings(network.shapes, make_mesh(1, 8, 1), tuple(network.stacks))
    share = [
        (x.size / s.num_devices if any(s.spec) else x.size) for x, s in zip(*map(jax.tree.leaves, (network.shapes, placed)))
    ]
    assert sum(share) < 1.01 * sum(x.size for x in jax.tree.leaves(network.shapes)) / 8
