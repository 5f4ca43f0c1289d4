"""Qwen2-VL against transformers on small random models unlike each other, in float32."""

import json

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert import qwen2_vl as files
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import qwen2_vl as ours
from tests.models import qwen2_vl_peers as peers

VARIANTS = list(peers.VARIANTS)
GRIDS = {"grouped": (4, 6), "single": (3, 2), "whole": (9, 3)}


def loaded(peer, folder):
    """Our network and parameters of what transformers saves."""
    peer.save_pretrained(folder)
    config = ours.config_from(json.loads((folder / "config.json").read_text()))
    net = ours.qwen2_vl(config)
    return config, net, import_params(net, files.opened(folder, np.float32))


def inputs(variant, count=2):
    """Token ids with a picture's tokens after three others, and patches of such pictures."""
    v, (high, wide) = peers.VARIANTS[variant]["vision"], GRIDS[variant]
    rng = np.random.default_rng(0)
    tokens = high * wide // v["spatial_merge_size"] ** 2
    ids = rng.integers(8, 39, (count, 3 + tokens + 9)).astype(np.int32)
    ids[:, 2], ids[:, 3 : 3 + tokens], ids[:, 3 + tokens] = peers.START, peers.IMAGE, peers.END
    values = 3 * v.get("temporal_patch_size", 2) * v["patch_size"] ** 2
    return ids, rng.normal(size=(count, high * wide, values)).astype(np.float32), tokens


def theirs(peer, ids, patches, grid, positions):
    """Hidden states of transformers; positions None: those that it makes itself."""
    ids = torch.tensor(ids).long()
    more = {} if positions is None else {"position_ids": torch.tensor(np.array(positions))[:, None].expand(3, len(ids), -1)}
    with torch.no_grad():
        return peer(
            input_ids=ids,
            pixel_values=torch.tensor(patches).reshape(-1, patches.shape[-1]),
            image_grid_thw=torch.tensor([[1, *grid]] * len(ids)),
            mm_token_type_ids=(ids == peers.IMAGE).int(),
            use_cache=False,
            **more,
        ).last_hidden_state.numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_are_transformers(tmp_path, variant):
    peer, grid = peers.model(variant), GRIDS[variant]
    config, net, params = loaded(peer, tmp_path)
    ids, patches, tokens = inputs(variant)
    merge = config.vision.spatial_merge_size
    merged = (grid[0] // merge, grid[1] // merge)
    plain = ours.sequential(ids.shape[1])
    multimodal = ours.image_positions(3, merged, ids.shape[1] - 3 - tokens)
    want_positions, _ = peer.get_rope_index(
        torch.tensor(ids).long(), (torch.tensor(ids) == peers.IMAGE).int(), torch.tensor([[1, *grid]] * len(ids))
    )
    np.testing.assert_array_equal(np.broadcast_to(multimodal[:, None], want_positions.shape), want_positions)
    results = []
    for positions, given in ((plain, plain), (multimodal, None)):
        got = np.asarray(jax.jit(lambda p, i, x, at=positions: net(p, i, x, grid, at))(params, ids, patches))
        want = theirs(peer, ids, patches, grid, given)
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
        results.append(want)
    assert np.abs(results[0] - results[1]).max() > 1e-2  # the two ways to place a picture differ


@pytest.mark.parametrize("variant", VARIANTS)
def test_old_files_and_old_configs_are_the_same_model(tmp_path, variant):
    """As transformers 4 wrote them, with lm_head, and as training loops save them, all under one more name."""
    peer = peers.model(variant)
    config, net, params = loaded(peer, tmp_path / "new")
    assert ours.config_from(peers.old_config(variant)) == config
    old = {peers.old_name(name): tensor for name, tensor in peer.state_dict().items()}
    old["lm_head.weight"] = torch.zeros(40, config.hidden_size)
    for title, tensors in {"old": old, "under": {f"model.{name}": t for name, t in old.items()}}.items():
        (tmp_path / title).mkdir()
        save_file({name: t.contiguous().clone() for name, t in tensors.items()}, tmp_path / title / "Any.safetensors")
        for place in (tmp_path / title, tmp_path / title / "Any.safetensors"):
            got = import_params(net, files.opened(place, np.float32))
            assert jax.tree.structure(got) == jax.tree.structure(params)
            jax.tree.map(np.testing.assert_array_equal, got, params)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("positions", ["sequential", "image"])
def test_continuations_of_a_kept_beginning_are_whole_sequences(variant, positions):
    """Three captions of each of two pictures, padded on the right: keys and values of the picture's part are made once."""
    grid = GRIDS[variant]
    config = ours.config_from(peers.old_config(variant))
    net = ours.reward_model(config)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: rng.normal(0, x.shape[-1] ** -0.5, x.shape).astype(np.float32), net.shapes)
    ids, patches, tokens = inputs(variant)
    ids[1] = ids[0]  # the beginning is the same but for the picture
    begin = 3 + tokens + 4
    tails = np.random.default_rng(1).integers(8, 39, (2, 3, 7)).astype(np.int32)
    last = np.array([[6, 2, 4], [0, 6, 3]], np.int32)

    def at(length):
        if positions == "sequential":
            return ours.sequential(length)
        merge = config.vision.spatial_merge_size
        return ours.image_positions(3, (grid[0] // merge, grid[1] // merge), length - 3 - tokens)

    @jax.jit
    def shared(params, patches, tails, last):
        model = net.bind(params)
        past = model.begin(ids[0, :3], ids[0, 3 + tokens : begin], patches, grid, at(begin))
        return model.read(past, tails, last, at(begin + 7)[:, begin:])

    @jax.jit
    def plain(params, patches, ids):
        model = net.bind(params)
        return model.head(model(ids, patches, grid, at(ids.shape[1])))

    got = np.asarray(shared(params, patches, tails, last))
    cut = np.where(np.arange(7) <= last[..., None], tails, 0)  # other padding, which must not matter
    whole = np.concatenate([np.broadcast_to(ids[:, None, :begin], (2, 3, begin)), cut], -1).reshape(6, -1)
    want = np.asarray(plain(params, np.repeat(patches, 3, axis=0), whole)).reshape(2, 3, -1, 2)
    want = np.take_along_axis(want, begin + last[..., None, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    assert np.abs(got[0] - got[1]).max() > 1e-3  # the pictures differ


def test_configs_that_are_no_qwen2_vl():
    good = peers.old_config("grouped")
    for change, expected in (
        ({"model_type": "qwen2_5_vl"}, "expected the config.json of a Qwen2-VL .* found 'qwen2_5_vl'"),
        ({"use_sliding_window": True}, "use_sliding_window must be false"),
        ({"rope_scaling": {"mrope_section": [1, 1, 1]}}, "sum to half the head size, 4, found"),
        ({"vision_config": {"hidden_size": 8}}, "expected vision_config.hidden_size 32"),
    ):
        with pytest.raises(UserError, match=expected):
            ours.config_from(good | change)
    with pytest.raises(UserError, match="x.json: expected num_hidden_layers, vocab_size"):
        ours.config_from({k: v for k, v in good.items() if k not in ("num_hidden_layers", "vocab_size")}, "x.json")
    published = ours.config_from(
        {
            "model_type": "qwen2_vl",
            **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
            **{"num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1e6},
            "vision_config": {
                "depth": 32,
                "embed_dim": 1280,
                "mlp_ratio": 4,
                "num_heads": 16,
                "in_chans": 3,
                "hidden_size": 3584,
            },
        }
    )
    assert published == ours.Qwen2VLConfig()
