"""Pipelines by name in the local cache of the Hugging Face hub; nothing is downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from mvgrpo_jax.errors import UserError

NAME = re.compile(r"[\w.-]+/[\w.-]+")


def found(name: str) -> str:
    """The folder that OWNER/NAME has in the cache; any other text, or the name of a folder that is there, as it is. UserError
    where the cache has none."""
    if not NAME.fullmatch(name) or Path(name).exists() or name.startswith("."):
        return name
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, HfHubHTTPError):
        raise UserError(
            f"{name} is neither a folder here nor in the Hugging Face cache {constants.HF_HUB_CACHE}; give the folder of a "
            f"pipeline, or fetch it first: hf download {name}"
        ) from None
