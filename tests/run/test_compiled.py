"""Where compiled programs are kept."""

import jax
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import compiled


@pytest.fixture(autouse=True)
def set_back(monkeypatch):
    """The tests' own cache comes back."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_folder_is_the_users_or_beside_the_workdir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workdir = str(tmp_path / "runs" / "one")
    assert compiled.folder(None, workdir) == str(tmp_path / "cache" / "mvgrpo_jax" / "compiled_programs")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert compiled.folder(None, workdir) == str(tmp_path / "runs" / "compiled_programs")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    assert compiled.folder(None, workdir) == "/elsewhere" and compiled.folder("given", workdir) == "given"


def test_it_is_on_unless_it_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled.keep(None, None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mvgrpo_jax" / "compiled_programs")
    compiled.keep("", None)
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written; give another folder"):
        compiled.keep(str(tmp_path / "file"), None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiled.keep(None, None)  # nobody asked for it
    assert jax.config.jax_compilation_cache_dir is None
