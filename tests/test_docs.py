"""What the pages name is there: commands, files, config keys."""

import importlib.util
import re
from pathlib import Path

import pytest

from configs import common
from mvgrpo_jax import configuration
from mvgrpo_jax.rewards import kinds

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
TEXTS |= {str(p.relative_to(ROOT)): p.read_text() for p in sorted((ROOT / "configs").glob("*.py"))}
# Folders of the package, by which files are named in short, as `core/update.py`.
FOLDERS = (
    "core",
    "algorithms",
    "models",
    "parallel",
    "pipelines",
    "run",
    "planning",
    "configuration",
    "convert",
    "enhancers",
    "prompts",
)
PLACES = (ROOT, ROOT / "mvgrpo_jax", ROOT / "docs")


@pytest.mark.parametrize("page", TEXTS)
def test_commands_exist(page):
    for module in set(re.findall(r"python -m (mvgrpo_jax[\w.]*)", TEXTS[page])):
        if module.endswith((".X", ".COMMAND")):
            continue
        spec = importlib.util.find_spec(module.rstrip("."))
        assert spec, f"{page} names {module}, which is no module"
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{module}.__main__"), f"{page}: {module} cannot be run"
    for script in set(re.findall(r"python ((?:bench|launch)/[\w/]+\.py)", TEXTS[page])):
        assert (ROOT / script).exists(), f"{page} names {script}"


@pytest.mark.parametrize("page", TEXTS)
def test_files_exist(page):
    text = TEXTS[page]
    named = set(re.findall(r"`((?:mvgrpo_jax|tests|configs|docs|bench|launch|console|services|rewards|nano)/[\w/.-]+)`", text))
    named |= set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/]+\.py)`", text))
    named |= {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    for path in named:
        if "NAME" not in path and path != "configs.md":  # made when the site is built
            assert any((place / path).exists() for place in PLACES), f"{page} names {path}, which is not there"


@pytest.mark.parametrize("page", TEXTS)
def test_config_keys_exist(page):
    known = set(configuration.keys(common.get_config()))
    sections = {key.rpartition(".")[0] for key in known} | {key.partition(".")[0] for key in known}
    judges = tuple(f"{section}.{kind}" for section in ("rewards", "judges") for kind in (*kinds.names(), "NAME"))
    for key in set(re.findall(r"config\.([a-z_]+(?:\.[a-z_0-9]+)*)", TEXTS[page])):
        if key in ("json", "key", "py", "to_dict") or key.startswith(judges) or key.startswith("algorithm.name"):
            continue
        assert key in known or key in sections, f"{page} names config.{key}, which is no setting"
