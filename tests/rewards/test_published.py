"""Judges at their published sizes, by names and shapes: what torch's own classes have on its meta device is read, all of it."""

import numpy as np
import pytest
import torch

from mvgrpo_jax.convert import blip, open_clip
from mvgrpo_jax.convert.folding import HEAD, Folded, Joined
from mvgrpo_jax.convert.sources import Described, Renamed
from mvgrpo_jax.convert.weights import checked
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.module import count
from mvgrpo_jax.rewards import described
from mvgrpo_jax.rewards.kinds import aesthetic
from tests.rewards import open_clip_peer as oc
from tests.rewards.judges import blip_state


def on_meta(make) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module that is made without memory."""
    with torch.device("meta"):
        made = make()
    state = made if isinstance(made, dict) else made.state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def consumed(network, source) -> None:
    """Every tensor is read once and every leaf is filled, or checked raises."""
    renamed, wanted = checked(network, source)
    assert set(renamed.names()) == set(wanted)


def sizes(name: str) -> dict:
    """What open_clip itself says of a model."""
    return oc.open_clip.get_model_config(name)


@pytest.mark.parametrize(
    "folder, own",
    [
        ("CLIP-ViT-H-14-laion2B-s32B-b79K", "ViT-H-14"),
        ("DFN5B-CLIP-ViT-H-14", "ViT-H-14-quickgelu"),
        ("DFN5B-CLIP-ViT-H-14-378", "ViT-H-14-378-quickgelu"),
        ("clip-vit-large-patch14", "ViT-L-14-quickgelu"),
    ],
)
def test_open_clips_models_are_read_whole(folder, own):
    judge = described("clip", {"folder": folder})
    assert open_clip.config_from(sizes(own)) == judge.config
    shapes = on_meta(lambda: oc.open_clip.model.CLIP(**sizes(own)))
    consumed(judge.network, open_clip.named(Described(shapes), judge.config))
    assert count(judge.network.shapes) == sum(int(np.prod(s)) for s in shapes.values())
    shapes["visual.ln_new.weight"] = (3,)
    with pytest.raises(UserError, match="unexpected: visual.ln_new.weight"):
        checked(judge.network, open_clip.named(Described(shapes), judge.config))


def test_hpsv2_and_pickscore_are_vit_h_14():
    shapes = on_meta(lambda: oc.open_clip.model.CLIP(**sizes("ViT-H-14")))
    hps = described("hpsv2", {"weights": "/nowhere/HPS_v2.1_compressed.pt", "base": "/nowhere"})
    consumed(hps.network, open_clip.named(Described(shapes), hps.config))
    assert hps.version == "v2.1" and hps.prepare.side == 224
    from transformers import CLIPConfig, CLIPModel

    text = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, hidden_act="gelu")
    vision = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, hidden_act="gelu")
    vision |= {"patch_size": 14}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=1024)
    pick = described("pickscore", {"folder": "/nowhere/PickScore_v1"})
    consumed(pick.network, Described(on_meta(lambda: CLIPModel(config))))
    assert count(pick.network.shapes) == 986_109_441  # 0.99 B, as published


def test_imagereward_is_read_whole():
    from transformers import BlipVisionConfig, BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextConfig, BlipTextModel

    shape = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
    vision = BlipVisionConfig(**shape, image_size=224, patch_size=16)
    text = BlipTextConfig(vocab_size=30524, encoder_hidden_size=1024, is_decoder=True)
    widths = (768, 1024, 128, 64, 16, 1)

    def make():
        head = {n: torch.nn.Linear(a, b) for n, a, b in zip((0, 2, 4, 6, 7), widths, widths[1:])}
        head = torch.nn.ModuleDict({str(n): layer for n, layer in head.items()})
        return blip_state(BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False), head)

    judge = described("imagereward", {"weights": "/nowhere/ImageReward.pt", "base": "/nowhere"})
    source = Described(on_meta(make))
    assert blip.vision_config(source) == blip.VIT_L_16
    consumed(judge.network, blip.named(source, blip.VIT_L_16))


def test_aesthetic_is_read_whole():
    """The image tower of CLIP-L/14 and five layers."""
    tower = on_meta(lambda: oc.open_clip.model.CLIP(**sizes("ViT-L-14-quickgelu")))
    judge = described("aesthetic", {"weights": "/nowhere/sac.pth", "base": "/nowhere"})
    widths = (768, 1024, 128, 64, 16, 1)
    head = {f"layers.{n}.weight": (b, a) for n, a, b in zip((0, 2, 4, 6, 7), widths, widths[1:])}
    head |= {name.replace("weight", "bias"): shape[:1] for name, shape in head.items()}
    tower = open_clip.named(Described(tower), open_clip.config_from(open_clip.VIT_L_14))
    kept = Renamed(tower, {n: n for n in tower.names() if n.startswith(aesthetic.READ)})
    consumed(judge.network, Joined([kept, Folded(Described(head), "layers.")]))


def test_layers_that_are_multiplied_out():
    """Against the layers one after the other, in torch and in float64."""
    torch.manual_seed(0)
    lines = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.Linear(7, 4), torch.nn.Linear(4, 1)).double()
    state = {f"x.{n}": value.numpy() for n, value in lines.state_dict().items()}
    source = Described({name: value.shape for name, value in state.items()}, np.dtype(np.float64))
    source.read = lambda name, start=0, stop=None: state[name][start:stop]
    head = Folded(source, "x.", shift=0.3, scale=1.7)
    x = np.random.default_rng(0).normal(size=(5, 9))
    want = (lines(torch.from_numpy(x)).detach().numpy() - 0.3) / 1.7
    np.testing.assert_allclose(x @ head.read(HEAD[0]).T + head.read(HEAD[1]), want, atol=1e-6)
    assert head.shape(HEAD[0]) == head.read(HEAD[0]).shape == (1, 9)
    with pytest.raises(UserError, match=r"expected linear layers x.N .* found \[7, 9\], \[1, 4\]"):
        Folded(Described({n: s for n, s in source.shapes.items() if not n.startswith("x.1")}), "x.")
