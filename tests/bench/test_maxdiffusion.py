"""What is read from a copy of MaxDiffusion, made up here; the config of our side; and messages. Nothing of theirs is needed."""

import textwrap

import numpy as np
import pytest

from bench import maxdiffusion, maxdiffusion_step
from mvgrpo_jax.errors import UserError


@pytest.fixture
def repository(tmp_path):
    """A file whose step is at the end of a module that cannot be imported."""
    folder = tmp_path / "src" / "maxdiffusion" / "trainers"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text('"""x"""\n__version__ = "1.2"\n')
    text = """
        import no_such_package_at_all

        class Trainer(no_such_package_at_all.Base):
            pass

        def _train_step(flux_state, batch, train_rng, guidance_vec, pipeline, scheduler, config):
            params = {FLUX_STATE_KEY: flux_state}
            return jnp.sum(params["flux_state"] * batch) + guidance_vec
        """
    (folder / "flux_trainer.py").write_text(textwrap.dedent(text))
    return tmp_path


def test_the_step_is_taken_without_its_modules_imports(repository):
    step = maxdiffusion_step.train_step(repository)
    assert float(step(np.arange(3.0), 2.0, None, 0.5, None, None, None)) == 6.5


def test_the_version_of_a_copy_without_history(repository, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    assert maxdiffusion_step.version(repository) == '__version__ = "1.2"'


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a copy of github.com/AI-Hypercomputer/maxdiffusion"):
        maxdiffusion_step.load(tmp_path)


def test_packages_that_are_missing_are_named(repository, monkeypatch):
    monkeypatch.setattr(maxdiffusion_step, "NEEDED", ("numpy", "aqt_that_is_not_there"))
    with pytest.raises(UserError, match="imports aqt_that_is_not_there, not installed here.*pip install"):
        maxdiffusion_step.load(repository)


def test_our_side_has_one_transition_a_device():
    c = maxdiffusion.config_of(8, (2, 4), 256, "full")
    assert c.pipeline == "FLUX.1-dev:2+4" and c.prompts_per_iteration == 8 and c.mesh.fsdp == 8
    assert tuple(c.algorithm.mvgrpo.trained_steps) == (0,) and c.views.count == 0 and c.optimizer.max_grad_norm == 0
    assert c.train.param_dtype == "float32" and c.train.dtype == "bfloat16" and c.sampling.max_sequence_length == 512


def test_flash_needs_a_tpu(monkeypatch, capsys):
    words = ["maxdiffusion.py", "--repository", "x", "--topology", "h200:1x8", "--attention", "flash"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        maxdiffusion.main()
    assert stopped.value.code == 2 and "take plain" in capsys.readouterr().err
