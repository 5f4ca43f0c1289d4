"""Which file of a folder is the LoRA, and what is said about it beside its weights."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.convert.formats import PICKLES, REFUSED
from mvgrpo_jax.errors import UserError

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
KOHYA_NAME = "kohya.safetensors"
PEFT_NAME = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."  # before the names in what PEFT saves
HEADER = "lora_adapter_metadata"  # the field of a file's header in which diffusers keeps PEFT's config


def locate(place: str | Path) -> Path:
    """The LoRA file that a path names: the file itself, or the one LoRA of a folder. Raises UserError.

    A folder's LoRA is PEFT's adapter_model.safetensors, diffusers' pytorch_lora_weights.safetensors, or its only file of
    safetensors.
    """
    place = Path(place)
    if not place.exists():
        raise UserError(f"{place}: no such file; expected a LoRA in safetensors format, or a folder that holds one")
    if place.is_file():
        return place
    known = [n for n in (PEFT_NAME, DIFFUSERS_NAME) if (place / n).is_file()]
    if len(known) == 2:
        raise UserError(f"{place}: holds both {known[0]} and {known[1]}; name the one that is meant")
    if known:
        return place / known[0]
    found = sorted(p.name for p in place.iterdir())
    files = [n for n in found if n.endswith(".safetensors")]
    if len(files) == 1:
        return place / files[0]
    if files:
        raise UserError(f"{place}: holds {len(files)} safetensors files ({', '.join(files)}); name the one that is meant")
    inside = sorted(p.parent for n in (PEFT_NAME, DIFFUSERS_NAME) for p in place.glob(f"*/{n}"))
    if inside:
        advice = f"give {' or '.join(map(str, inside))}"
    elif any(Path(n).suffix in PICKLES for n in found):
        advice = REFUSED
    else:
        advice = "copy the complete folder as PEFT's or diffusers' saving leaves it"
    raise UserError(
        f"{place}: no LoRA in this folder; expected {PEFT_NAME} with {PEFT_CONFIG}, or {DIFFUSERS_NAME}, "
        f"found {', '.join(found) or 'nothing'}; {advice}"
    )


def config_beside(path: Path, names: list[str]) -> Path | None:
    """The adapter_config.json that belongs to a LoRA file with such tensor names: the one beside it, where PEFT saved it."""
    beside = path.parent / PEFT_CONFIG
    return beside if beside.is_file() and from_peft(path, names) else None


def from_peft(path: Path, names: list[str]) -> bool:
    """Whether PEFT itself saved the file, so that alpha stands in adapter_config.json."""
    return path.name == PEFT_NAME or any(n.startswith(PEFT_PREFIX) for n in names)


def files_of(place: str | Path) -> list[Path]:
    """Every file that decides what a LoRA does. Raises UserError."""
    path = locate(place)
    beside = path.parent / PEFT_CONFIG
    return [path, beside] if beside.is_file() else [path]
