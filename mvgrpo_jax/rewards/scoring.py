"""Judges on picture files: pictures of any size and mode as they come, each under its prompt or under all."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mvgrpo_jax import rewards
from mvgrpo_jax.configuration.arguments import parsed
from mvgrpo_jax.configuration.rules import shown
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.rewards import kinds
from mvgrpo_jax.rewards.base import Judge
from mvgrpo_jax.rewards.panel import Panel

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SHEET = "sheet.png"
BATCH = 16  # pictures that are held and judged at a time


def add_arguments(parser: ArgumentParser, default: Sequence[str] = ()) -> None:
    """--judge and --option, as `make_judges` reads them. default: what help names where no judge need be given; without one
    a judge is required."""
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        required=not default,
        metavar="NAME[=PLACE]",
        help=f"may be repeated; NAME is a kind ({', '.join(kinds.names())}), PLACE the folder or file of its weights or its "
        "address" + (f"; default: {' and '.join(default)}" if default else ""),
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME.KEY=VALUE",
        help="a setting of a judge, as in a config under judges.NAME.KEY; NAME.kind where NAME is no kind; may be repeated",
    )


def make_judges(words: list[str], options: Sequence[str] = ()) -> dict[str, Judge]:
    """The judges of `described`, by name. UserError as there, and where one cannot be made."""
    return {name: rewards.make(name, settings) for name, settings in described(words, options).items()}


def described(words: list[str], options: Sequence[str] = ()) -> dict[str, dict[str, object]]:
    """Of each judge, by its name, its kind under 'kind' and its settings, from what was given for each, NAME or NAME=PLACE, and
    settings, NAME.KEY=VALUE. NAME is a kind unless the setting NAME.kind says another; a kind that is there twice is named by
    the whole word.

    UserError for an unknown kind or setting, a place where the kind takes none, one judge twice, and a value of another type.
    """
    given = _settings(options)
    names = Counter(word.partition("=")[0] for word in words)
    judges = {}
    for word in words:
        name, equals, place = word.partition("=")
        settings = dict(given.pop(name, {}) if names[name] == 1 else given.get(name, {}))
        kind = settings.pop("kind", name)
        key = kinds.place(kind)
        if equals and not place:
            raise UserError(f"--judge {word}: nothing after =; give {name}=FOLDER, or {name} for the embedded one")
        if equals and not key:
            raise UserError(f"--judge {word}: the judge {kind!r} reads no folder; give --judge {name}")
        if equals:  # addresses may be several
            settings[key] = repr(tuple(place.split(","))) if isinstance(kinds.defaults(kind)[key], tuple) else place
        label = word if names[name] > 1 else name
        if label in judges:
            raise UserError(f"--judge {word} is there twice; give each judge once")
        judges[label] = {"kind": kind} | _typed(name, kind, settings)
    if unused := sorted(set(given) - set(names)):
        raise UserError(f"--option {unused[0]}...: no --judge {unused[0]} is given; there are: {', '.join(names)}")
    return judges


def _settings(options: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of each judge its settings as text, from NAME.KEY=VALUE."""
    out: dict[str, dict[str, str]] = defaultdict(dict)
    for word in options:
        name, dot, rest = word.partition(".")
        key, equals, value = rest.partition("=")
        if not (name and dot and key and equals):
            raise UserError(f"--option {word}: expected NAME.KEY=VALUE, as in hpsv3.base=/models/Qwen2-VL-7B-Instruct")
        out[name][key] = value
    return out


def _typed(name: str, kind: str, settings: dict[str, str]) -> dict[str, object]:
    """Settings in the types of their defaults, within what their rules allow."""
    defaults, rules, out = kinds.defaults(kind), kinds.rules(kind), {}
    for key, text in settings.items():
        if key not in defaults:
            near = did_you_mean(key, defaults) or f" There are: {', '.join(defaults) or 'none'}"
            raise UserError(f"--option {name}.{key}: the judge {kind!r} has no such setting.{near}")
        default = "" if defaults[key] is kinds.REQUIRED else defaults[key]
        out[key] = parsed(text, default, f"judges.{name}.{key}")
        if key in rules and not rules[key].accepts(out[key]):
            raise UserError(f"--option {name}.{key} must be {rules[key].expected}; got {shown(out[key])}")
    return out


def find_pictures(given: list[Path]) -> list[Path]:
    """Files as they are named, and of a folder those with a picture's extension, by name, without the contact sheet that the
    sample command leaves there. UserError when there is none."""
    files = []
    for path in given:
        if not path.is_dir():
            files.append(path)
            continue
        inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in EXTENSIONS and p.name != SHEET and p.is_file()]
        if not inside:
            raise UserError(f"{path}: no pictures there; expected files with {', '.join(EXTENSIONS)}")
        files += inside
    return files


def as_rgb(image: Image.Image) -> tuple[np.ndarray, str]:
    """float32 [H, W, 3] in [0, 1] and what was done for it, '' where it was RGB: transparency is laid over white, gray is
    repeated in three channels, 16 bits keep their precision, a palette is looked up."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: conversion by Pillow would cut them off at 255
        gray = np.asarray(image, np.float32) / 65535
        return np.repeat(np.clip(gray, 0, 1)[..., None], 3, axis=-1), "gray"
    if image.mode == "F":
        raise UserError("pixels are floating-point numbers without a range; save it as PNG")
    if image.has_transparency_data:
        values = np.asarray(image.convert("RGBA"), np.float32) / 255
        alpha = values[..., 3:]
        return values[..., :3] * alpha + (1 - alpha), "transparent" if alpha.min() < 1 else ""
    kind = {"RGB": "", "P": "palette", "L": "gray", "1": "gray"}.get(image.mode, image.mode)
    return np.asarray(image.convert("RGB"), np.float32) / 255, kind


def read_picture(path: Path) -> tuple[np.ndarray, str]:
    """`as_rgb` of a file; of an animation the first frame. UserError when it is missing, no picture, damaged or too large."""
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except FileNotFoundError:
        raise UserError(f"picture {path} does not exist") from None
    except UnidentifiedImageError:
        raise UserError(f"picture {path} is no picture that can be read; expected PNG, JPEG, WebP or the like") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"picture {path} is too large ({error}); make it smaller") from None
    except UserError as error:
        raise UserError(f"picture {path}: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"picture {path} is damaged or cut short ({error}); copy it again") from None


def in_batches(paths: Iterable[Path], kinds: Counter) -> Iterator[tuple[list[int], np.ndarray]]:
    """(indices, pictures [N, H, W, 3]) of at most BATCH files of one size; `kinds` counts what was done to them."""
    waiting: dict[tuple, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for i, path in enumerate(paths):
        picture, kind = read_picture(path)
        kinds[kind] += 1
        same = waiting[picture.shape]
        same.append((i, picture))
        if len(same) == BATCH:
            yield [i for i, _ in same], np.stack([p for _, p in same])
            same.clear()
    for same in waiting.values():
        if same:
            yield [i for i, _ in same], np.stack([p for _, p in same])


def score(
    judges: dict[str, Judge], paths: list[Path], prompts: list[str], all_pairs: bool = False
) -> tuple[dict[str, np.ndarray], Counter]:
    """({judge: float32 [N], or [N, prompts] of every pair}, how many pictures were what: transparent, gray, palette, ...).

    In order: picture i under prompt i, or every picture under the only prompt. UserError when the numbers differ."""
    if not all_pairs and len(prompts) not in (1, len(paths)):
        raise UserError(
            f"{len(paths)} pictures and {len(prompts)} prompts; give as many prompts as pictures, one prompt for all, or "
            "--all-pairs for every picture under every prompt"
        )
    shape = (len(paths), len(prompts)) if all_pairs else (len(paths),)
    out, kinds, panel = {name: np.zeros(shape, np.float32) for name in judges}, Counter(), Panel(judges)
    for rows, images in in_batches(paths, kinds):
        texts = [[text] * len(rows) for text in prompts] if all_pairs else [[prompts[i % len(prompts)] for i in rows]]
        for name, values in score_pictures(panel, images, texts).items():
            out[name][rows] = values.T if all_pairs else values[0]
    return out, kinds


def score_pictures(panel: Panel, images: np.ndarray, texts: list[list[str]]) -> dict[str, np.ndarray]:
    """{judge: float32 [V, N]} of pictures [N, H, W, 3] of this host under texts [V][N], BATCH at a time; the last batch is
    filled up, so that one program is compiled."""
    out = {name: np.zeros((len(texts), len(images)), np.float32) for name in panel.judges}
    size = min(BATCH, len(images))
    for first in range(0, len(images), size):
        rows = np.minimum(np.arange(first, first + size), len(images) - 1)
        pictures = Owned(jnp.asarray(images[rows])[:, None], 1)
        for name in panel.judges:
            values = panel.score(name, pictures, [[view[i] for i in rows] for view in texts])[:, :, 0]
            out[name][:, first : first + size] = values[:, : len(images) - first]
    return out
