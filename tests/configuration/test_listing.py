"""Every key of a config, with what the source says beside it."""

import re
from pathlib import Path

import pytest

from mvgrpo_jax.configuration import arguments, listing
from mvgrpo_jax.console import configs
from mvgrpo_jax.errors import UserError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs"
SOURCE = '''
"""A config."""
from ml_collections import ConfigDict


def get_config():
    c = ConfigDict()
    # Of everything
    # that is drawn.
    c.seed = 3
    c.place = "a # b"  # a folder, or # nothing
    c.size = ConfigDict({"height": 0, "width": 0})  # pixels
    # Where it is kept.
    c.store = ConfigDict(
        {
            "plain": 1,
            # Patterns of names,
            # the first decides.
            "names": (
                "x",
                "y",
            ),
            # All three.
            "three": 3,  # or four
            "inner": {"a": 1.5},  # in one line
        }
    )
    return c
'''


def test_comments_belong_to_the_key_beside_or_below(tmp_path):
    (tmp_path / "common.py").write_text(SOURCE)
    beside, sections = listing.comments_of(tmp_path / "common.py")
    assert beside == {
        "seed": "Of everything that is drawn.",
        "place": "a folder, or # nothing",
        "store.plain": "",
        "store.names": "Patterns of names, the first decides.",
        "store.three": "or four",
    }
    assert sections == {
        "size": "pixels",
        "store": "Where it is kept.",
        "store.three": "All three.",
        "store.inner": "in one line",
    }


@pytest.mark.parametrize("path", sorted(p for p in FOLDER.glob("*.py") if p.stem not in listing.SKIPPED), ids=lambda p: p.stem)
def test_every_key_of_every_config_is_listed(path):
    values = arguments.keys(arguments.load(str(path)))
    entries, _ = listing.entries(path)
    assert {e.key: e.value for e in entries} == values and len(entries) == len(values)
    common = arguments.keys(arguments.load(str(FOLDER / "common.py")))
    assert {e.key for e in entries if e.differs} == {k for k in values if common.get(k, "none") != values[k]}
    assert any(e.differs for e in entries)


def test_meanings_are_found_wherever_they_stand():
    entries, sections = listing.entries(FOLDER / "flux_nano.py")
    said = {e.key: e.comment for e in entries}
    text = (FOLDER / "common.py").read_text()
    for key in ("pipeline", "views.service.hedge", "lora.rank", "train.passes", "checkpoint.every"):
        (line,) = [x for x in text.splitlines() if re.search(rf'(c\.|"){key.split(".")[-1]}("| =)', x)][:1]
        assert said[key] == (line.split("  # ")[1] if "  # " in line else "")
    assert said["lora.targets"].startswith("Layers by name, without block numbers")
    assert said["algorithm.mvgrpo.eta"] == "noise level"  # base.py's
    assert said["algorithm.mixgrpo.dwell"] == "iterations at one place"  # its own
    assert sections["rewards"].startswith("Weight of each judge") and sections["image"] == "pixels; 0: the pipeline's own size"


def test_the_order_is_for_reading():
    entries, _ = listing.entries(FOLDER / "mixgrpo_flux.py")
    keys = [e.key for e in entries]
    first = [k for k in keys if "." not in k]
    assert keys[: len(first)] == sorted(first)
    assert keys[len(first)] == "algorithm.name" and keys[len(first) + 1].startswith("algorithm.mixgrpo.")
    assert keys[-1].startswith("algorithm.tempflow_grpo.")


def test_the_command_prints_them_aligned(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    configs.main([])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["flux_nano"] == "MV-GRPO on the embedded pipeline: the laptop run behind `make demo`."
    assert "common" not in lines and len(lines) == len(list(FOLDER.glob("*.py"))) - 2
    configs.main(["flux_nano"])
    shown = capsys.readouterr().out.splitlines()
    values = arguments.keys(arguments.load("configs/flux_nano.py"))
    rows = [line for line in shown if re.match(r"[* ] \S+ +\S", line) and line.split()[0 if line[0] == " " else 1] in values]
    assert len(rows) == len(values)
    assert len({re.match(r"[* ] \S+ +", row).end() for row in rows}) == 1, "values begin in one column"
    assert "* optimizer.learning_rate " in "\n".join(rows) and max(map(len, shown)) <= 140


def test_names_are_found_by_name_or_path(capsys, tmp_path):
    assert listing.find("flux_nano", FOLDER) == listing.find("flux_nano.py", FOLDER) == FOLDER / "flux_nano.py"
    assert listing.find(str(FOLDER / "flux_nano.py"), tmp_path) == FOLDER / "flux_nano.py"
    with pytest.raises(UserError, match="no config 'flux_nana'; Did you mean 'flux_nano'"):
        listing.find("flux_nana", FOLDER)
    with pytest.raises(SystemExit) as stop:
        configs.main(["--dir", str(tmp_path)])
    assert stop.value.code == 2 and "--dir FOLDER" in capsys.readouterr().err
