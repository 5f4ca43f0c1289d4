"""What is installed: pins within the ranges, and everything that the code imports."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench import resolve

ROOT = Path(__file__).parents[1]
TARGETS = [
    environment | {"python_version": python, "python_full_version": f"{python}.0"}
    for python in resolve.PYTHONS
    for _, environment in resolve.PLATFORMS.values()
]


def pins() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_tested_set_is_within_the_ranges():
    asked = [Requirement(line) for line in [*resolve.ranges(), *resolve.ranges("tensorboard")]]
    pinned = {canonicalize_name(r.name): r for r in pins()}
    # diffusers is the peer whose folders are read and whose pictures the tests compare with; no code imports it.
    assert {canonicalize_name(r.name) for r in asked} | {"jaxlib", "diffusers"} == set(pinned)
    for requirement in asked:
        pin = pinned[canonicalize_name(requirement.name)]
        ((operator, version),) = [(s.operator, s.version) for s in pin.specifier]
        assert operator == "==" and requirement.specifier.contains(version), f"{pin} is outside of {requirement}"
        assert [not pin.marker or pin.marker.evaluate(t) for t in TARGETS] == [
            not requirement.marker or requirement.marker.evaluate(t) for t in TARGETS
        ]


def test_one_tensorflow_everywhere_but_on_python_3_14():
    boards = [r for r in pins() if r.name.startswith("tensorflow")]
    for target in TARGETS:
        count = sum(r.marker.evaluate(target) for r in boards)
        assert count == (target["python_version"] != "3.14")
    assert not [line for line in resolve.ranges() if line.startswith("tensor")], "pip install . brings no tensorflow"


def test_every_import_of_the_package_is_asked_for():
    asked = {canonicalize_name(Requirement(line).name) for line in resolve.ranges()}
    optional = {"tensorboard", "libtpu", "jax-plugins", "starlette", "uvicorn", "rapidocr_onnxruntime", "pyarrow"}
    optional |= {"wandb", "swanlab", "mlflow", "torch"}
    names = set()
    for path in (ROOT / "mvgrpo_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                found = [node.module]
            names |= {name.split(".")[0] for name in found}
    owners = packages_distributions()
    strangers = {n for n in names - set(sys.stdlib_module_names) - {"mvgrpo_jax", "configs"}}
    assert len(strangers) > 15
    for name in strangers - optional:
        assert {canonicalize_name(o) for o in owners[name]} & (asked | {"jaxlib"}), f"{name} is not in setup.py"
