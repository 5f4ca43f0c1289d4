"""Where a run keeps its files: folders of a disk, or gs://bucket/folder in object storage, which knows neither locks nor
appending nor renaming."""

from mvgrpo_jax.storage.claims import hold
from mvgrpo_jax.storage.places import files, is_remote, place, remove, size, upload

__all__ = ["files", "hold", "is_remote", "place", "remove", "size", "upload"]
