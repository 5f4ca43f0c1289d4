"""The mvgrpo command: every subcommand is there, described and run as `python -m` does."""

import re
import sys
from pathlib import Path

import pytest

from mvgrpo_jax import report
from mvgrpo_jax.console import __main__ as console
from mvgrpo_jax.console import commands
from tests import hiding

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What a command changes in the process is put back."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(commands, "_started_as", {})


def test_every_module_that_runs_is_a_subcommand():
    runs = lambda path: 'if __name__ == "__main__"' in path.read_text()
    alone = {f"mvgrpo_jax.{p.stem}" for p in (ROOT / "mvgrpo_jax").glob("*.py") if runs(p)}
    assert len(alone) >= 9 and alone <= set(commands.COMMANDS.values())
    assert all(runs(commands.source(module)) for module in commands.COMMANDS.values())


def test_without_arguments_each_is_described_and_nothing_heavy_is_loaded(tmp_path):
    heavy = ("jax", "numpy", "transformers", "absl", "PIL")
    code = "import sys; from mvgrpo_jax.console.__main__ import main; main([]); "
    done = hiding.run(["-c", code + f"print([m for m in {heavy} if m in sys.modules])"], tmp_path)
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "[]" and not done.stderr
    for name in commands.COMMANDS:
        (line,) = [x for x in lines if re.match(rf"  {name} ", x)]
        words = line.split(maxsplit=1)[1]
        assert 4 <= len(words.split()) and len(line) < 130 and words[0].isupper() and "python -m" not in words


@pytest.mark.parametrize(
    "docstring, expected",
    [
        ("python -m mvgrpo_jax.x --out DIR: does it. And more.", "Does it"),
        ("Does it\nfor you. More.\n\npython -m mvgrpo_jax.x --a: B", "Does it for you"),
        ("python -m mvgrpo_jax.x [--a=b ...]\n\nMakes a.b of c. More.", "Makes a.b of c"),
    ],
)
def test_first_sentence(docstring, expected):
    assert commands.first_sentence(docstring) == expected


def test_an_unknown_command_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit) as stop:
        console.main(["evalute"])
    assert stop.value.code == 2
    assert "unknown command 'evalute'; Did you mean 'evaluate'? there are: train, sample" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # this process has imported what a command's own would not have
def test_usage_says_what_was_typed(capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(["--help"])
    assert stop.value.code == 0 and "usage: python -m mvgrpo_jax.report" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        console.main(["report", "--help"])
    assert stop.value.code == 0 and "usage: mvgrpo report" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        console.main(["report", "/nowhere"])
    assert stop.value.code == 2 and "/nowhere/metrics.jsonl does not exist" in capsys.readouterr().err


def test_training_gets_its_flags(tmp_path):
    said = "from mvgrpo_jax.console.__main__ import main; main(['train', '--config=configs/flux_nana.py', '--workdir=x'])"
    done = hiding.run(["-c", said], tmp_path)
    assert done.returncode == 2 and "Did you mean 'configs/flux_nano.py'" in done.stderr and "Traceback" not in done.stderr


def test_version_is_the_packages(capsys, monkeypatch):
    monkeypatch.setattr(console.importlib.metadata, "version", lambda name: {"mvgrpo_jax": "9.8.7"}[name])
    console.main(["--version"])
    assert capsys.readouterr().out == "mvgrpo_jax 9.8.7\n"
