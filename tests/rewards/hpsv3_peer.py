"""HPSv3 in plain torch on transformers' Qwen2-VL, from a picture file to a number, and small random ones in its layout."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2VLConfig, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from mvgrpo_jax import rewards
from mvgrpo_jax.rewards.kinds.hpsv3 import TEXT
from tests.models.qwen2_vl_peers import old_name
from tests.peers import randomise

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start"]
SPECIAL = [f"<|{s}|>" for s in (*SPECIAL, "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")]
TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VARIANTS = {
    "grouped": dict(
        text=dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
        vision=dict(depth=2, embed_dim=32, num_heads=2, mlp_ratio=2, patch_size=14, spatial_merge_size=2),
        eps=1e-6,
        section=[1, 1, 2],
    ),
    "single": dict(
        text=dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1),
        vision=dict(depth=1, embed_dim=24, num_heads=3, mlp_ratio=1, patch_size=28, spatial_merge_size=1),
        eps=1e-5,
        section=[2, 1, 1],
    ),
}


def dressed(model: models.Model) -> Tokenizer:
    """A tokenizer that cuts as Qwen2's does."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@cache
def small_tokenizer() -> Tokenizer:
    """Of all bytes and of the instruction's words."""
    tokenizer = dressed(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT.read_text(), "a cat on a red table, oil painting"] * 2, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def qwen_ranks() -> Path | None:
    """Qwen's vocabulary, a file in the package dashscope; None where that is not installed."""
    spec = importlib.util.find_spec("dashscope")
    return spec and Path(spec.origin).parent / "resources" / "qwen.tiktoken"


@cache
def qwen_tokenizer() -> Tokenizer:
    """Qwen2's, of all its 151,643 ranks."""
    import base64

    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    spell = lambda token: "".join(letters[b] for b in token)
    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in qwen_ranks().read_bytes().splitlines())}
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = [bytes([b]) for b in token]
            while len(parts) > 2:
                pairs = [ranks.get(a + b, rank) for a, b in zip(parts, parts[1:])]
                i = pairs.index(min(pairs))
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            merges.append((spell(parts[0]), spell(parts[1])))
    tokenizer = dressed(models.BPE(vocab={spell(t): r for t, r in ranks.items()}, merges=merges))
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer, template: str | None = TEMPLATE) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | ({"chat_template": template} if template else {})))


def turn(tokenizer: Tokenizer, caption: str, image_tokens: int) -> list[int]:
    """The whole turn, with what follows <|Reward|>, which is the token after the tokenizer's last."""
    instruction = TEXT.read_bytes().decode().format(text_prompt=caption)
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    first, second = instruction.rsplit("<|Reward|>", 1)
    tail = second + "<|im_end|>\n<|im_start|>assistant\n"
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    begin = encode(head) + encode("<|image_pad|>") * image_tokens + encode("<|vision_end|>" + first)
    return begin + [tokenizer.get_vocab_size()] + encode(tail)


def judge_of(peer: "Peer", **options):
    """Our judge of a peer's files, in float32 if nothing else is said."""
    return rewards.make("hpsv3", {"folder": str(peer.folder), "base": str(peer.base), "dtype": "float32"} | options)


class Peer:
    """A small random HPSv3. folder: of its weights, base: of config and tokenizer, both written by __init__."""

    def __init__(self, place: Path, variant: str):
        self.folder, self.base = place / "weights", place / "base"
        self.folder.mkdir(parents=True)
        self.base.mkdir()
        tokenizer = small_tokenizer()
        write_tokenizer(self.base, tokenizer)
        v, size = VARIANTS[variant], tokenizer.get_vocab_size()
        pad, start, end = (tokenizer.token_to_id(f"<|{t}|>") for t in ("image_pad", "vision_start", "vision_end"))
        tokens = dict(image_token_id=pad, vision_start_token_id=start, vision_end_token_id=end, video_token_id=pad + 1)
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": v["section"]}
        none = dict(pad_token_id=None, bos_token_id=None, eos_token_id=None)
        text = dict(vocab_size=size + 1, rms_norm_eps=v["eps"], rope_parameters=rope, use_sliding_window=False, **none)
        vision = dict(hidden_size=v["text"]["hidden_size"], **v["vision"])
        config = Qwen2VLConfig(text_config=text | v["text"], vision_config=vision, **tokens)
        # The base's own table has other rows than the reward model's, as Qwen2-VL-7B's has.
        flat = v["text"] | dict(vocab_size=size + 70, rms_norm_eps=v["eps"], rope_theta=1e6, model_type="qwen2_vl", **tokens)
        flat |= dict(rope_scaling={"type": "mrope", "mrope_section": v["section"]}, vision_config=vision)
        (self.base / "config.json").write_text(json.dumps(flat))
        torch.manual_seed(0)
        self.model = randomise(Qwen2VLModel(config).float(), seed=3)
        width = v["text"]["hidden_size"]
        sizes = [torch.nn.Linear(width, 1024), torch.nn.ReLU(), torch.nn.Dropout(0.05), torch.nn.Linear(1024, 16)]
        self.rm_head = torch.nn.Sequential(*sizes, torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        with torch.no_grad():
            for p in self.rm_head.parameters():
                p *= 4  # scores as far apart as the published model's
        self.tokenizer, self.v = tokenizer, v
        self.state = {n: t.clone() for n, t in self.model.state_dict().items()}
        save_file(self.tensors(), self.folder / "HPSv3.safetensors")

    def tensors(self) -> dict[str, torch.Tensor]:
        """As the published file names them."""
        tensors = {old_name(n): t for n, t in self.model.state_dict().items()}
        tensors |= {f"rm_head.{n}": t for n, t in self.rm_head.state_dict().items()}
        tensors["lm_head.weight"] = torch.zeros(8, 2)
        return {n: t.contiguous().clone() for n, t in tensors.items()}

    def pixels(self, path: Path):
        """Patches and grid by Pillow and transformers' processor."""
        with Image.open(path) as image:
            image = on_white(image)
        height, width = smart_resize(image.height, image.width, 28, 200704, 200704)
        # In Pillow's order up to version 12: first the width.
        image = image.resize((width, image.height), Image.BICUBIC).resize((width, height), Image.BICUBIC)
        v = self.v["vision"]
        processor = Qwen2VLImageProcessorPil(patch_size=v["patch_size"], merge_size=v["spatial_merge_size"])
        return processor(images=[image], return_tensors="pt")

    def score(self, path: Path, caption: str, positions: str = "sequential") -> tuple[float, float]:
        """Mean and uncertainty, one sequence, nothing shared."""
        seen = self.pixels(path)
        count = int(seen["image_grid_thw"].prod()) // self.v["vision"]["spatial_merge_size"] ** 2
        ids = torch.tensor([turn(self.tokenizer, caption, count)])
        at = torch.arange(ids.shape[1]).expand(3, 1, -1)
        with torch.no_grad():
            hidden = self.model(
                input_ids=ids,
                mm_token_type_ids=(ids == self.model.config.image_token_id).int(),
                position_ids=at if positions == "sequential" else None,
                use_cache=False,
                **seen,
            ).last_hidden_state.float()
            out = self.rm_head(hidden[0, ids[0].tolist().index(self.tokenizer.get_vocab_size())])
        return out[0].item(), out[1].item()


def on_white(image: Image.Image) -> Image.Image:
    """RGB; transparency over white, as every judge here is given it."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    values = np.asarray(image, np.float64) / 255
    flat = values[..., :3] * values[..., 3:] + 1 - values[..., 3:]
    return Image.fromarray(np.round(flat * 255).astype(np.uint8))
