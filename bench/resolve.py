"""Whether every supported Python on every supported platform finds a wheel of each pinned package. It needs PyPI.

    python bench/resolve.py [--python 3.13] [--platform linux-aarch64] [--out docs/resolve.json]

Each combination is resolved by pip itself (`pip install --dry-run --only-binary=:all:`), for the pins (requirements.txt), for
what `pip install .` asks for (the ranges of setup.py) and for the pins with what the tests need. Writes docs/resolve.json and
the table in docs/running.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = ("pins", "ranges", "test")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MANYLINUX = [f"manylinux_2_{minor}" for minor in range(17, 40)] + ["manylinux2014", "linux"]
# Name -> tags of wheels that it takes, and what environment markers say there.
PLATFORMS = {
    "linux-x86_64": (
        [f"{m}_x86_64" for m in MANYLINUX],
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    ),
    "linux-aarch64": (
        [f"{m}_aarch64" for m in MANYLINUX],
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64", "os_name": "posix"},
    ),
    "macos-arm64": (
        [f"macosx_{v}_0_{kind}" for v in range(11, 16) for kind in ("arm64", "universal2")] + ["macosx_10_9_universal2"],
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
    ),
}
# pip evaluates markers for the machine that it runs on, whatever --platform says; this tells it the target's.
PIP = """
import json, sys
from pip._vendor.packaging import markers
target = json.loads(sys.argv.pop(1))
here = markers.default_environment()
markers.default_environment = lambda: here | target
from pip._internal.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def command(python: str, platform: str, asked: list[str], report: Path) -> list[str]:
    """pip's command line for a target; `asked` are its requirements."""
    tags, environment = PLATFORMS[platform]
    markers = environment | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
    }
    pip = ["install", "--dry-run", "--quiet", "--ignore-installed", "--only-binary=:all:", "--implementation", "cp"]
    pip += ["--python-version", python, "--target", str(report.parent / "nowhere"), "--report", str(report)]
    pip += [word for tag in tags for word in ("--platform", tag)]
    return [sys.executable, "-c", PIP, json.dumps(markers), *pip, *asked]


def missing(text: str) -> str:
    """The requirement that pip's error names, or its last line."""
    found = re.findall(r"No matching distribution found for (\S+)", text)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    return found[-1] if found else (lines[-1] if lines else "pip said nothing")


def resolve(python: str, platform: str, asked: list[str]) -> str:
    """'ok' with the number of packages and whether TensorFlow is among them, or 'no' and what pip did not find."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(command(python, platform, asked, report), capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            return f"no {missing(done.stderr)}"
        names = [package["metadata"]["name"] for package in json.loads(report.read_text())["install"]]
    board = any(name.startswith("tensorflow") for name in names)
    return f"ok, {len(names)} packages" + (", TensorBoard" if board else "")


def ranges(extra: str = "") -> list[str]:
    """What setup.py asks for without extras, or for one extra."""
    with tempfile.TemporaryDirectory() as folder:
        make = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder]
        subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
        requires = importlib.metadata.Distribution.at(next(Path(folder).glob("*.egg-info"))).requires or []
    if not extra:
        return [line for line in requires if "extra ==" not in line]
    own = [line.replace(f' and extra == "{extra}"', "") for line in requires if f'extra == "{extra}"' in line]
    return [line.partition(f'; extra == "{extra}"')[0] for line in own]


def table(results: dict[str, str]) -> str:
    """Markdown, a row a platform and a column a Python."""
    lines = ["| | platform | " + " | ".join(PYTHONS) + " |", "|---|---|" + "---|" * len(PYTHONS)]
    for kind in KINDS:
        for platform in PLATFORMS:
            cells = [results.get(f"{kind} {python} {platform}", "-") for python in PYTHONS]
            lines.append(f"| {kind} | {platform} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def record(results: dict[str, str], out: Path) -> None:
    """Writes the results, and the table between its marks in docs/running.md."""
    out.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    page = ROOT / "docs" / "running.md"
    begin, end = "<!-- resolve: begin -->", "<!-- resolve: end -->"
    text = re.sub(f"{begin}.*?{end}", f"{begin}\n{table(results)}\n{end}", page.read_text(encoding="utf-8"), flags=re.S)
    page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only this one; may be repeated")
    parser.add_argument("--platform", action="append", choices=sorted(PLATFORMS), help="only this one; may be repeated")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these requirements")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "resolve.json")
    options = parser.parse_args()
    pins = ["-r", "requirements.txt"]
    asked = dict(zip(KINDS, (pins, ranges(), [*pins, *ranges("test")]), strict=True))
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for kind in options.kind or KINDS:
        for python in options.python or PYTHONS:
            for platform in options.platform or PLATFORMS:
                name = f"{kind} {python} {platform}"
                results[name] = resolve(python, platform, asked[kind])
                print(f"{name:<32}{results[name]}", flush=True)
                record(results, options.out)
    if not all(found.startswith("ok") for found in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
