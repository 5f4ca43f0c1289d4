"""Placement rules: every parameter of every network has one, and mistakes are named."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import clip, flux, qwen2_vl, t5, vae
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    "net",
    [
        flux.flux(flux.FluxConfig()),
        flux.flux(flux.FluxConfig(guidance_embeds=False)),
        vae.vae(vae.VaeConfig()),
        t5.t5(t5.T5Config()),
        clip.clip_text(clip.TowerConfig()),
        clip.clip(clip.ClipConfig(clip.TowerConfig(), clip.TowerConfig())),
        qwen2_vl.reward_model(qwen2_vl.Qwen2VLConfig()),
    ],
    ids=["flux-dev", "flux-schnell", "vae", "t5-xxl", "clip-l", "clip", "qwen2-vl-7b"],
)
def test_full_size_networks_fit_a_mesh_of_eight(net):
    mesh = make_mesh(2, 2, 2)
    placed = rules.parameter_shardings(net.shapes, mesh, tuple(net.stacks))
    assert jax.tree.structure(placed) == jax.tree.structure(net.shapes)


def test_flux_blocks_are_split_and_layers_are_not():
    net = flux.flux(flux.FluxConfig())
    placed = rules.parameter_shardings(net.shapes, make_mesh(1, 4, 2), tuple(net.stacks))
    block = placed["single_transformer_blocks"]
    assert block["attn"]["to_q"]["kernel"].spec == P(None, "fsdp", "tensor")
    assert block["proj_out"]["kernel"].spec == P(None, "tensor", "fsdp")
    assert placed["proj_out"]["kernel"].spec == P("fsdp", None)
    large = [
        leaf.size for leaf, s in zip(jax.tree.leaves(net.shapes), jax.tree.leaves(placed)) if s.spec == P() or not any(s.spec)
    ]
    assert sum(large) < 0.001 * sum(leaf.size for leaf in jax.tree.leaves(net.shapes))


def test_a_decoders_projections_are_split_both_ways():
    net = qwen2_vl.reward_model(qwen2_vl.Qwen2VLConfig())
    placed = rules.parameter_shardings(net.shapes, make_mesh(1, 4, 2), tuple(net.stacks))
    layer, block = placed["model"]["layers"], placed["visual"]["blocks"]
    for name in ("q_proj", "k_proj", "v_proj"):
        assert layer["self_attn"][name]["kernel"].spec == P(None, "fsdp", "tensor")
        assert layer["self_attn"][name]["bias"].spec == P(None, "tensor")
    for name in ("gate_proj", "up_proj"):
        assert layer["mlp"][name]["kernel"].spec == P(None, "fsdp", "tensor")
    assert layer["self_attn"]["o_proj"]["kernel"].spec == layer["mlp"]["down_proj"]["kernel"].spec == P(None, "tensor", "fsdp")
    assert block["mlp"]["fc1"]["kernel"].spec == P(None, "fsdp", "tensor")
    assert placed["model"]["embed_tokens"]["embedding"].spec == P(None, "fsdp")
    assert not any(placed["rm_head"]["5"]["kernel"].spec)


def test_mistakes_are_named():
    mesh = make_mesh(1, 8, 1)
    with pytest.raises(UserError, match="no sharding rule matches parameter a/strange/leaf"):
        rules.parameter_spec("a/strange/leaf", (3,), mesh, False)
    with pytest.raises(UserError, match=r"x_embedder/kernel \[12, 8\]: 12 does not divide into 8 parts"):
        rules.parameter_spec("x_embedder/kernel", (12, 8), mesh, False)
    with pytest.raises(UserError, match="needs 16 devices, there are 8"):
        make_mesh(2, 8, 1)
    with pytest.raises(UserError, match="only one mesh size may be -1"):
        make_mesh(-1, -1, 1)
    assert make_mesh(2, -1, 1).shape == {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize(
    "sizes, prompts, groups, lanes",
    [
        ((1, 8, 1), 8, 8, 1),
        ((1, 8, 1), 2, 2, 4),
        ((2, 4, 1), 2, 2, 4),
        ((2, 4, 1), 4, 4, 2),
        ((2, 2, 2), 1, 1, 4),
        ((1, 8, 1), 12, 4, 2),
    ],
)
def test_devices_that_share_a_prompt_split_its_lanes(sizes, prompts, groups, lanes):
    mesh = make_mesh(*sizes, prompts=prompts)
    assert (rules.parts("prompts", mesh), rules.parts("lanes", mesh)) == (groups, lanes)
    assert rules.parts("batch", mesh) == sizes[0] * sizes[1] and rules.parts("embed", mesh) == sizes[1]
    assert list(mesh.devices.flat) == list(make_mesh(*sizes).devices.flat)
