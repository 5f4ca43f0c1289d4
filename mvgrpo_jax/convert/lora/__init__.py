"""LoRA files: diffusers' layout, PEFT's folders, kohya's layout, the original's names and XLabs' layout in; diffusers' and
kohya's out; and weights with a LoRA added into them."""

from mvgrpo_jax.convert.lora.files import DIFFUSERS_NAME, KOHYA_NAME, PEFT_NAME, files_of
from mvgrpo_jax.convert.lora.merging import Merged
from mvgrpo_jax.convert.lora.reading import read
from mvgrpo_jax.convert.lora.trees import Factors, factors_of, start_from, tree_of
from mvgrpo_jax.convert.lora.writing import write_diffusers, write_kohya

__all__ = [
    "DIFFUSERS_NAME",
    "KOHYA_NAME",
    "PEFT_NAME",
    "Factors",
    "Merged",
    "factors_of",
    "files_of",
    "read",
    "start_from",
    "tree_of",
    "write_diffusers",
    "write_kohya",
]
