"""gs:// in a folder of this machine: what object storage cannot do is refused, an object appears when it is closed."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from etils.epath import backend, gpath
from orbax.checkpoint._src.path import gcs_utils

from mvgrpo_jax.storage import places


class Bucket(backend.Backend):
    """Objects of gs:// as files below `root`; folders are there while something is in them."""

    def __init__(self, root: Path):
        self.root = root

    def at(self, path) -> Path:
        assert os.fspath(path).startswith("gs://"), path
        return self.root / os.fspath(path).removeprefix("gs://")

    @contextlib.contextmanager
    def open(self, path, mode):
        assert "a" not in mode and "+" not in mode, f"{path}: objects cannot be appended to"
        place = self.at(path)
        if "w" not in mode:
            with place.open(mode) as file:
                yield file
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=self.root)
        with os.fdopen(handle, mode) as file:
            yield file
        os.replace(part, place)

    def exists(self, path):
        return self.at(path).is_file() or self.isdir(path)

    def isdir(self, path):
        return any(p.is_file() for p in self.at(path).rglob("*"))

    def listdir(self, path):
        return [p.name for p in self.at(path).iterdir() if self.exists(f"{os.fspath(path)}/{p.name}")]

    def glob(self, path):
        before, _, pattern = os.fspath(path).removeprefix("gs://").rpartition("/")
        return [f"gs://{p.relative_to(self.root)}" for p in (self.root / before).glob(pattern)]

    def walk(self, top, *, top_down=True, on_error=None):
        for root, folders, names in os.walk(self.at(top)):
            yield os.path.relpath(root, self.root), folders, names  # without the scheme, as fsspec does

    def makedirs(self, path, *, exist_ok=False, mode=None):
        assert not self.at(path).is_file()

    def mkdir(self, path, *, exist_ok=False, mode=None):
        assert not self.at(path).is_file()

    def rmtree(self, path):
        if not self.exists(path):
            raise FileNotFoundError(path)
        shutil.rmtree(self.at(path))

    def remove(self, path):
        self.at(path).unlink()

    def rename(self, path, dst):
        raise AssertionError(f"{path}: objects cannot be renamed")

    replace = rename

    def copy(self, path, dst, overwrite):
        raise AssertionError("not needed")

    def stat(self, path):
        return backend.os_backend.stat(self.at(path))


def mount(monkeypatch, root: Path) -> Bucket:
    """Every gs://NAME/... is root/NAME/... until the test ends, for the project, for etils and for orbax."""
    bucket = Bucket(root)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", bucket)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setitem(places.CLIENTS, "gs", "etils")
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    # tensorstore has a client of its own
    monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", lambda path: {"driver": "file", "path": str(bucket.at(path))})
    return bucket
