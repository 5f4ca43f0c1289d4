"""Paths of disks and of object storage."""

from pathlib import Path

import pytest

from mvgrpo_jax import storage
from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import loop
from mvgrpo_jax.storage import places
from tests.runs import small_config
from tests.storage.bucket import mount


def test_a_scheme_that_does_not_work_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("s3://bucket/run", "hdfs://host/run", "file:///run", Path("s3://bucket/run")):
        with pytest.raises(UserError, match=r"does not work here; expected a folder or gs://\. Mount"):
            loop.train(small_config(), text)
    monkeypatch.setitem(places.CLIENTS, "gs", "a_client_that_is_not_there")
    with pytest.raises(UserError, match=r"gs:// needs a_client_that_is_not_there, .* pip install 'mvgrpo_jax\[gcs\]'"):
        loop.train(small_config(), "gs://bucket/run")
    assert not list(tmp_path.iterdir())  # never a folder named gs:


def test_files_of_a_bucket_and_of_a_disk(tmp_path, monkeypatch):
    mount(monkeypatch, tmp_path)
    for folder in (storage.place("gs://bucket/run"), storage.place(str(tmp_path / "disk")), storage.place(Path("gs://b/run"))):
        assert storage.is_remote(folder) == (tmp_path not in folder.parents)
        with atomic(folder / "a" / "one") as part:
            part.write_text("1234")
        with pytest.raises(KeyError):
            with atomic(folder / "a" / "two") as part:
                part.write_text("1234")
                raise KeyError
        assert not part.exists()
        (folder / "three").write_text("")
        assert sorted(storage.files(folder)) == ["a/one", "three"]
        assert [storage.size(folder / name) for name in ("a/one", "three", "a/two")] == [4, 0, None]
        storage.remove(folder / "a")
        storage.remove(folder / "a")
        assert list(storage.files(folder)) == ["three"]
    assert (tmp_path / "bucket/run/three").exists()
