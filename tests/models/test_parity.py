"""Every network against torch, diffusers and transformers, on random weights, in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import import_params
from mvgrpo_jax.models import clip, flux, vae
from tests import peers

pytestmark = pytest.mark.slow

VARIANTS = list(peers.VARIANTS)
TOLERANCE = 1e-4


def relative(got, want) -> float:
    got, want = np.asarray(got, np.float64), want.detach().double().numpy()
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("height, width, text", [(3, 5, 7), (4, 2, 16)])
def test_flux_matches_diffusers(random_pipeline, variant, height, width, text):
    peer = peers.transformer(variant)
    ours = pipelines.load(random_pipeline(variant))
    v = peers.VARIANTS[variant]
    rng = np.random.default_rng(0)
    img = rng.normal(size=(2, height * width, 64)).astype(np.float32)
    txt = rng.normal(size=(2, text, v["joint"])).astype(np.float32)
    pooled = rng.normal(size=(2, v["pooled"])).astype(np.float32)
    sigma, guidance = np.array([0.93, 0.21], np.float32), np.array([3.5, 1.5], np.float32)
    ids = flux.latent_ids(height, width)
    got = jax.jit(ours.transformer)(ours.params["transformer"], img, sigma, txt, pooled, ids, guidance)
    with torch.no_grad():
        want = peer(
            hidden_states=torch.tensor(img),
            timestep=torch.tensor(sigma),
            guidance=torch.tensor(guidance) if v["guidance"] else None,
            encoder_hidden_states=torch.tensor(txt),
            pooled_projections=torch.tensor(pooled),
            txt_ids=torch.zeros(text, 3),
            img_ids=torch.tensor(np.array(ids)),
        ).sample
    assert relative(got, want) < TOLERANCE


@pytest.mark.parametrize("remat", ["full", pytest.param("dots", marks=pytest.mark.nightly)])
def test_remat_changes_nothing(random_pipeline, remat):
    plain = pipelines.load(random_pipeline("odd"))
    saved = pipelines.load(random_pipeline("odd"), remat=remat)
    args = (jnp.ones((1, 4, 64)), jnp.array([0.5]), jnp.ones((1, 3, 32)), jnp.ones((1, 18)), flux.latent_ids(2, 2), None)

    def grads(net):
        return jax.jit(jax.grad(lambda p: net(p, *args).std()))(plain.params["transformer"])

    for a, b in zip(jax.tree.leaves(grads(plain.transformer)), jax.tree.leaves(grads(saved.transformer))):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_vae_matches_diffusers(random_pipeline, variant):
    peer, ours = peers.vae(variant), pipelines.load(random_pipeline(variant))
    rng = np.random.default_rng(0)
    side = 2 ** (len(peers.VARIANTS[variant]["vae"]["block_out_channels"]) - 1)
    image = rng.uniform(-1, 1, (2, 6 * side, 4 * side, 3)).astype(np.float32)
    latent = rng.normal(size=(2, 6, 4, 16)).astype(np.float32)
    params = ours.params["vae"]
    mean, log_var = jax.jit(lambda p, x: ours.vae.bind(p).moments(x))(params, image)
    decoded = jax.jit(ours.vae)(params, latent)
    with torch.no_grad():
        posterior = peer.encode(torch.tensor(image).permute(0, 3, 1, 2)).latent_dist
        want = peer.decode(torch.tensor(latent).permute(0, 3, 1, 2)).sample
    assert relative(mean, posterior.mean.permute(0, 2, 3, 1)) < TOLERANCE
    assert relative(log_var, posterior.logvar.permute(0, 2, 3, 1)) < TOLERANCE
    assert relative(decoded, want.permute(0, 2, 3, 1)) < TOLERANCE


def test_pack_is_diffusers_packing():
    from diffusers import FluxPipeline

    latent = np.random.default_rng(0).normal(size=(2, 6, 4, 16)).astype(np.float32)
    want = FluxPipeline._pack_latents(torch.tensor(latent).permute(0, 3, 1, 2), 2, 16, 6, 4)
    np.testing.assert_array_equal(vae.pack(latent), want)
    np.testing.assert_array_equal(vae.unpack(vae.pack(latent), 3, 2), latent)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [5, 24, 150])
def test_t5_matches_transformers(random_pipeline, variant, length):
    ours = pipelines.load(random_pipeline(variant))
    vocab = len(ours.tokenizer_2)
    peer = peers.t5(variant, vocab)
    ids = np.random.default_rng(0).integers(0, vocab, (2, length))
    mask = np.arange(length)[None] < np.array([[length], [length // 2]])
    got = jax.jit(ours.text_encoder_2)(ours.params["text_encoder_2"], ids)
    got_masked = jax.jit(ours.text_encoder_2)(ours.params["text_encoder_2"], ids, mask)
    with torch.no_grad():
        want = peer(input_ids=torch.tensor(ids)).last_hidden_state
        want_masked = peer(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask).long()).last_hidden_state
    assert relative(got, want) < TOLERANCE
    np.testing.assert_allclose(got_masked[mask], want_masked.numpy()[mask], rtol=1e-3, atol=1e-3)


def test_t5_in_bfloat16_keeps_what_a_large_stream_would_swallow(random_pipeline):
    """With embeddings a thousand times larger than what layers add, as deep T5-XXL streams are, a bfloat16 stream loses the
    layers' work; ours stays within bfloat16 products' own error. What layers did is what is compared."""
    ours = pipelines.load(random_pipeline("odd"))
    vocab = len(ours.tokenizer_2)
    peer = peers.t5("odd", vocab)
    with torch.no_grad():
        peer.shared.weight *= 300.0
    params = jax.tree.map(np.asarray, ours.params["text_encoder_2"])
    params["shared"]["embedding"] = params["shared"]["embedding"] * 300.0
    ids = np.random.default_rng(0).integers(0, vocab, (2, 12))
    with torch.no_grad():
        exact = peer(input_ids=torch.tensor(ids)).last_hidden_state.numpy()
        theirs = peer.to(torch.bfloat16)(input_ids=torch.tensor(ids)).last_hidden_state.float().numpy()
    got = np.asarray(jax.jit(ours.text_encoder_2, static_argnums=3)(params, ids, None, jnp.bfloat16), np.float32)
    ours_error, their_error = (np.sqrt(((a - exact) ** 2).mean()) for a in (got, theirs))
    assert ours_error < 0.5 * their_error and ours_error < 0.01 * exact.std()


@pytest.mark.parametrize("variant", VARIANTS)
def test_clip_text_matches_transformers(random_pipeline, variant):
    ours = pipelines.load(random_pipeline(variant))
    peer = peers.clip_text(variant, len(ours.tokenizer))
    ids, _, _ = pipelines.tokenize(ours, ["a red circle", "two shapes on a blue background", ""], 24)
    hidden, pooled = jax.jit(ours.text_encoder)(ours.params["text_encoder"], ids)
    with torch.no_grad():
        want = peer(input_ids=torch.tensor(ids, dtype=torch.long))
    assert relative(hidden, want.last_hidden_state) < TOLERANCE
    assert relative(pooled, want.pooler_output) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_clip_model_matches_transformers(tmp_path, variant):
    peer = peers.clip(variant, vocab=300)
    peer.save_pretrained(tmp_path)
    net = clip.clip(clip.config_from(peer.config.to_dict()))
    params = import_params(net, tmp_path)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 24, 24, 3)).astype(np.float32)
    ids = rng.integers(2, 300, (2, 12)).astype(np.int32)
    ids[:, 0], ids[0, 7:], ids[1, 11:] = 0, 1, 1
    with torch.no_grad():
        want = peer(input_ids=torch.tensor(ids).long(), pixel_values=torch.tensor(image).permute(0, 3, 1, 2))
    assert relative(jax.jit(net)(params, ids, image), want.logits_per_image) < TOLERANCE


def test_clip_text_openai_end_of_text():
    """Configs with eos_token_id 2 mean the largest id, as transformers reads them."""
    config = clip.TowerConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=50, eos_token_id=2
    )
    net = clip.clip_text(config)
    params = net.init(jax.random.key(0))
    ids = np.array([[0, 5, 49, 2, 2], [0, 49, 3, 4, 2]])
    hidden, pooled = net(params, ids)
    np.testing.assert_array_equal(pooled, np.stack([hidden[0, 2], hidden[1, 1]]))
