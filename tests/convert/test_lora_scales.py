"""The strength of LoRA files: PEFT and diffusers give the same change of every weight, wherever alpha stands."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig as PeftConfig
from peft import get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from safetensors.numpy import load_file, save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import lora, sources
from mvgrpo_jax.errors import UserError
from tests import peers

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "to_add_out", "add_q_proj", "ff.net.0.proj", "net.2", "proj_mlp", "proj_out"]
RANKS = {r"^transformer_blocks\.0\.attn\.to_q": 2, "to_k": 6, r"single_transformer_blocks\.[01]\.proj_mlp": 3, "ff.net.2": 1}
ALPHAS = {"attn.to_q": 3, r".*ff_context\.net\.2": 5.5, "proj_out": 16, "to_k": 1}
KINDS = {
    "alpha": dict(r=4, lora_alpha=8),
    "rslora": dict(r=4, lora_alpha=8, use_rslora=True),
    "patterns": dict(r=4, lora_alpha=8, rank_pattern=RANKS, alpha_pattern=ALPHAS),
    "patterns of rslora": dict(r=4, lora_alpha=6, rank_pattern=RANKS, alpha_pattern=ALPHAS, use_rslora=True),
}


@pytest.fixture(scope="module")
def ours(random_pipeline):
    return pipelines.describe(random_pipeline("guided"))


def read(path, ours):
    return lora.read(path, ours.transformer, ours.flux_config)


def filled(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def changes(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """What PEFT adds to each weight."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    out = {n: m.get_delta_weight(m.active_adapters[0]).detach().numpy() for n, m in layers.items()}
    return {n.removeprefix("base_model.model."): d for n, d in out.items()}


def same(factors: lora.Factors, want: dict[str, np.ndarray]) -> None:
    assert factors.keys() == want.keys() and want
    for name, delta in want.items():
        np.testing.assert_allclose(factors[name][1] @ factors[name][0], delta, rtol=1e-5, atol=1e-6, err_msg=name)


def peft_folder(folder, **options):
    """(folder that PEFT saved, what it adds to each weight)."""
    model = filled(get_peft_model(peers.transformer("guided"), PeftConfig(target_modules=TARGETS, **options)))
    model.save_pretrained(folder)
    return folder, changes(model)


def edited(folder, **changed):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_peft_saved(ours, tmp_path, kind):
    folder, want = peft_folder(tmp_path, **KINDS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(read(folder, ours), want)
        same(read(folder / "adapter_model.safetensors", ours), want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefixed", [True, False], ids=["pipeline", "transformer"])
def test_alpha_in_the_header_as_diffusers_writes_it(ours, tmp_path, kind, prefixed):
    """Saved by the pipeline (`transformer.` before every name) and by the model; loaded again by diffusers itself."""
    model = peers.transformer("guided")
    model.add_adapter(PeftConfig(target_modules=TARGETS, **KINDS[kind]))
    if prefixed:
        FluxPipeline.save_lora_weights(
            tmp_path,
            transformer_lora_layers=get_peft_model_state_dict(filled(model)),
            transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
        )
    else:
        filled(model).save_lora_adapter(tmp_path)
    again = peers.transformer("guided")
    again.load_lora_adapter(tmp_path, prefix="transformer" if prefixed else None, weight_name=lora.DIFFUSERS_NAME)
    want = changes(again)
    same(read(tmp_path, ours), want)
    same(read(tmp_path / lora.DIFFUSERS_NAME, ours), want)


def test_a_pattern_is_matched_as_peft_does():
    names = [
        "proj_out",
        "single_transformer_blocks.0.proj_out",
        "transformer_blocks.11.attn.to_q",
        "x_embedder",
        "attn.to_out.0",
    ]
    patterns = [
        "proj_out",
        "^proj_out",
        "blocks.1.attn.to_q",
        r"transformer_blocks\.\d+\.attn\.to_q",
        "embedder",
        "to_out.0",
        "to_[qk]",
    ]
    from mvgrpo_jax.convert.lora.scales import PeftScale

    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        table = {p: i + 2.0 for i, p in enumerate(rng.permutation(patterns)[:3])}
        for name in names:
            want = table.get(get_pattern_key(table.keys(), name), 1.0)
            assert PeftScale("x", alpha=1.0, alphas=table).scale(name, 1) == want
            hits += want != 1.0
    assert hits > 200


def test_a_file_without_any_alpha_has_scale_one(ours, tmp_path):
    """Without a header diffusers applies up @ down."""
    down, up = np.full((4, 32), 0.1, np.float32), np.full((32, 4), 0.2, np.float32)
    name = "transformer_blocks.0.attn.to_q"
    save_file({f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}, tmp_path / "x.safetensors")
    same(read(tmp_path / "x.safetensors", ours), {name: up @ down})


def kohya(path, alpha: float | None, metadata: dict[str, str] | None = None):
    key, ones = "lora_unet_double_blocks_0_img_attn_proj", np.ones((4, 32), np.float32)
    content = {f"{key}.lora_down.weight": ones, f"{key}.lora_up.weight": ones.T.copy()}
    content |= {} if alpha is None else {f"{key}.alpha": np.asarray(alpha, np.float32)}
    save_file(content, path, metadata)
    return path


def test_kohyas_header_is_a_record_and_no_scale(ours, tmp_path):
    """kohya's loader takes alpha from the file's own tensors, and the rank where there are none; its ss_ fields are notes."""
    notes = {"ss_network_alpha": "2.0", "ss_network_dim": "4"}
    name = "transformer_blocks.0.attn.to_out.0"
    with pytest.warns(UserWarning, match=r"ss_network_alpha 2.0 .*no .alpha .*scale 1"):
        same(read(kohya(tmp_path / "a.safetensors", None, notes), ours), {name: np.full((32, 32), 4.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(read(kohya(tmp_path / "b.safetensors", 1.0, notes), ours), {name: np.full((32, 32), 1.0)})
        same(
            read(kohya(tmp_path / "c.safetensors", None, notes | {"ss_network_alpha": "4"}), ours),
            {name: np.full((32, 32), 4.0)},
        )


REFUSED = [
    ({"use_dora": True}, "use_dora"),
    ({"lora_bias": True}, "lora_bias"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ({"modules_to_save": ["proj_out"]}, "modules_to_save"),
    ({"bias": "all"}, "bias"),
    ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights.*pissa_niter_4"),
    ({"peft_type": "LOHA"}, "peft_type.*LOHA"),
    ({"use_something_new": True}, "use_something_new"),
]


@pytest.mark.parametrize("changed, message", REFUSED)
def test_what_changes_the_function_is_refused_by_name(ours, tmp_path, changed, message):
    folder, _ = peft_folder(tmp_path, r=4, lora_alpha=8)
    with pytest.raises(UserError, match=rf"adapter_config.json: {message}"):
        read(edited(folder, **changed), ours)


def test_what_does_not_change_the_function_is_let_through(ours, tmp_path):
    folder, want = peft_folder(tmp_path, r=4, lora_alpha=8, lora_dropout=0.1, init_lora_weights="orthogonal")
    same(
        read(edited(folder, inference_mode=False, auto_mapping={"base_model_class": "X"}, layers_pattern="blocks"), ours), want
    )


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"r": 8}, r"adapter_config.json says rank 8, the file has rank 4"),
        ({"lora_alpha": "much"}, r"adapter_config.json: lora_alpha must be a number, found 'much'"),
        ({"lora_alpha": 0}, r"scale must be positive and finite, found 0"),
        ({"rank_pattern": {"to_(q": 4}}, r"adapter_config.json: rank_pattern: 'to_\(q' is not a regular expression"),
        ({"alpha_pattern": ["to_q"]}, r"adapter_config.json: alpha_pattern must be names with numbers"),
        ({"use_rslora": "no"}, r"adapter_config.json: use_rslora must be true or false, found 'no'"),
    ],
)
def test_what_is_wrong_with_an_adapter_config(ours, tmp_path, changed, message):
    folder, _ = peft_folder(tmp_path, r=4, lora_alpha=8)
    with pytest.raises(UserError, match=message):
        read(edited(folder, **changed), ours)


def test_a_damaged_config_and_a_damaged_header(ours, tmp_path):
    folder, _ = peft_folder(tmp_path, r=4, lora_alpha=8)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="adapter_config.json: not valid JSON"):
        read(folder, ours)
    content = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").unlink()
    save_file(content, tmp_path / "x.safetensors", {"lora_adapter_metadata": "[1]"})
    with pytest.raises(UserError, match="lora_adapter_metadata in the header: expected a JSON object"):
        read(tmp_path / "x.safetensors", ours)


def test_peft_weights_without_their_config(ours, tmp_path):
    folder, want = peft_folder(tmp_path, r=4, lora_alpha=8)
    (folder / "adapter_config.json").unlink()
    with pytest.warns(UserWarning, match="no adapter_config.json beside it.*scale 1"):
        same(read(folder, ours), {n: d / 2 for n, d in want.items()})


def test_two_places_that_disagree(ours, tmp_path):
    folder, want = peft_folder(tmp_path, r=4, lora_alpha=8)
    path = folder / "adapter_model.safetensors"
    content, name = load_file(path), "transformer_blocks.0.attn.to_q"
    save_file(content | {f"base_model.model.{name}.alpha": np.asarray(8, np.float32)}, path)
    same(read(folder, ours), want)
    save_file(content | {f"base_model.model.{name}.alpha": np.asarray(4, np.float32)}, path)
    with pytest.raises(UserError, match=rf"{re.escape(name)}: its .alpha gives scale 1, adapter_config.json 2"):
        read(folder, ours)
    save_file(content, path, {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 4})})
    with pytest.raises(UserError, match="adapter_config.json gives scale 2, lora_adapter_metadata in the header 1"):
        read(folder, ours)


def test_ranks_in_our_header_belong_to_one_layer_each(ours, tmp_path):
    """PEFT's patterns match ends of names: the last layer's own rank must not reach the blocks' proj_out."""
    rng = np.random.default_rng(0)
    shapes = {
        "proj_out": (64, 32, 3),
        "single_transformer_blocks.0.proj_out": (32, 160, 4),
        "transformer_blocks.1.attn.to_q": (32, 32, 4),
    }
    factors = {
        n: (rng.normal(size=(r, i)).astype(np.float32), rng.normal(size=(o, r)).astype(np.float32))
        for n, (o, i, r) in shapes.items()
    }
    lora.write_diffusers(tmp_path / lora.DIFFUSERS_NAME, factors)
    same(read(tmp_path, ours), {n: up @ down for n, (down, up) in factors.items()})
    assert "lora_adapter_metadata" in sources.metadata(tmp_path / lora.DIFFUSERS_NAME)
    again = peers.transformer("guided")
    again.load_lora_adapter(tmp_path, weight_name=lora.DIFFUSERS_NAME)
    same(factors, changes(again))
