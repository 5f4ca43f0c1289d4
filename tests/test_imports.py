"""The house's rules, read off the imports of every file: they hold also for imports inside functions."""

import ast
import sys
from pathlib import Path

import pytest

import mvgrpo_jax

PACKAGE = Path(mvgrpo_jax.__file__).parent
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
# What a person runs: `python -m mvgrpo_jax.NAME`.
COMMANDS = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "errors"}
# Folder -> the third parties that it may import. What is below must run wherever JAX does.
THIRD_PARTIES = dict.fromkeys(("core", "algorithms", "models", "parallel"), {"jax", "flax", "optax", "numpy"})
# Folder -> the folders that it may import besides itself, from the bottom of the house upwards.
BELOW = {
    "parallel": set(),
    "models": {"parallel"},
    "core": {"parallel", "models"},
    "algorithms": {"core"},
    "convert": {"parallel", "models", "pipelines", "storage"},
    "pipelines": {"parallel", "models", "core", "convert", "storage"},
    "prompts": {"core", "nano", "convert"},
    "services": set(),
    "storage": set(),
}


def name_of(path: Path) -> str:
    return ".".join(("mvgrpo_jax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, by its full name; `from a import b` counts as a.b where that is a module."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {m for m in inside if (PACKAGE.parent / m.replace(".", "/")).with_suffix(".py").exists()}
            known |= {m for m in inside if (PACKAGE.parent / m.replace(".", "/")).is_dir()}
            modules |= known or {node.module}
    return modules


def folder(module: str) -> str:
    words = module.split(".")
    return words[1] if words[0] == "mvgrpo_jax" and len(words) > 1 else ""


def test_the_root_holds_what_a_person_runs():
    assert len(COMMANDS) + 1 <= 10, f"move what is no command into a folder: {sorted(COMMANDS)}"
    for name in COMMANDS:
        assert 'if __name__ == "__main__":\n    main()' in (PACKAGE / f"{name}.py").read_text(), f"{name} is no command"


def test_nothing_imports_a_command():
    commands = {f"mvgrpo_jax.{name}" for name in COMMANDS} | {name_of(p) for p in FILES if p.stem == "__main__"}
    for path in FILES:
        assert not imports(path) & commands, f"{name_of(path)} imports a command: move what it needs into a library module"


@pytest.mark.parametrize("name", sorted(THIRD_PARTIES))
def test_the_mathematics_needs_jax_alone(name):
    for path in (PACKAGE / name).rglob("*.py"):
        tops = {m.split(".")[0] for m in imports(path)} - set(sys.stdlib_module_names) - {"mvgrpo_jax"}
        assert tops <= THIRD_PARTIES[name], f"{name_of(path)} imports {tops - THIRD_PARTIES[name]}"


@pytest.mark.parametrize("name", sorted(BELOW))
def test_a_folder_imports_from_below(name):
    for path in set((PACKAGE / name).rglob("*.py")) - set((PACKAGE / name).rglob("__main__.py")):  # a command is above all
        used = {folder(m) for m in imports(path)} - {"", name, "errors"}
        assert used <= BELOW[name], f"{name_of(path)} imports from {used - BELOW[name]}, which stands above {name}"


def test_no_module_has_the_name_of_one_of_pythons():
    for path in FILES:
        name = path.stem if path.stem not in ("__init__", "__main__") else path.parent.name
        assert name not in sys.stdlib_module_names, f"{name_of(path)} shadows the standard library's {name}"


def test_files_are_small():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, f"{name_of(path)} is over 400 lines: it has more than one subject"
