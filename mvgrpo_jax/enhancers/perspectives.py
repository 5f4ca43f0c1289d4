"""What a captioner is asked to look at. One perspective is drawn at random for each caption (MV-GRPO, the online enhancer)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.prompts import text_files


@dataclasses.dataclass(frozen=True)
class Perspective:
    """name: for logs and configs. instruction: what the captioner is asked; a captioner of its own world may not need one."""

    name: str
    instruction: str = ""


# The paper names the idea and some of the aspects; the words are ours.
DEFAULT = tuple(
    Perspective(*item)
    for item in (
        ("overall", "Describe the whole picture in one or two sentences, the most important things first."),
        ("subject", "Describe the main subject closely: what it is, how it looks, what sets it apart."),
        ("lighting", "Describe the light: where it comes from, how hard or soft it is, its colour, and the shadows."),
        ("colour", "Describe the colours: which dominate, how they contrast, and what has which colour."),
        ("composition", "Describe the composition: framing, balance, what leads the eye, what is left empty."),
        ("style", "Describe the style: photograph, painting, rendering or drawing, of which kind, with which technique."),
        ("texture", "Describe materials and surfaces: rough or smooth, shiny or matt, worn or new."),
        ("background", "Describe the surroundings and the background, and how the subject stands in them."),
        ("mood", "Describe the mood of the picture and what in it makes that mood."),
        ("camera", "Describe the point of view as a photographer would: angle, distance, lens, depth of field."),
        ("relations", "Describe where things are in relation to each other: left, right, before, behind, above, below."),
        ("count", "Say how many there are of each kind of thing in the picture, and where they are."),
        ("action", "Describe what is happening: movements, gestures, what came just before or comes next."),
        ("time", "Describe time and place as far as they can be seen: hour, season, weather, era, location."),
        ("shape", "Describe shapes and sizes: outlines, proportions, what is large and what is small."),
        ("details", "Describe three small details that a quick look would miss, together with what they belong to."),
        ("text", "Describe writing, signs and symbols if there are any, and otherwise the most telling object."),
        ("people", "Describe people or creatures: faces, posture, clothing; without any, describe the largest object."),
    )
)

FORMAT = (
    "Answer with the caption alone, as a prompt for a picture generator: plain English, at most 60 words, no introduction, no "
    "quotes, no lists. Describe only what can be seen."
)


def load(file: str, only: tuple[str, ...] = (), default: tuple[Perspective, ...] = DEFAULT) -> tuple[Perspective, ...]:
    """The perspectives of a file ('name: instruction' a line, # for remarks), or the default ones; `only` keeps those named.
    UserError for a file that is not UTF-8 text, a line that cannot be read, a name twice, or an unknown name."""
    perspectives = _of_file(file) if file else default
    known = {p.name: p for p in perspectives}
    for name in only:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"config.views.perspectives names {name!r};{near} there are: {', '.join(known)}")
    return tuple(known[n] for n in only) if only else perspectives


def _of_file(file: str) -> tuple[Perspective, ...]:
    path, expected = Path(file), "expected a line 'name: instruction' for each"
    if not path.is_file():
        raise UserError(f"config.views.instructions {file}: no such file; {expected}")
    instructions: dict[str, str] = {}
    for number, line in text_files.lines(text_files.read(path, "config.views.instructions", expected)):
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([\w-]+)\s*:\s*(\S.*)", line)
        if not match or match[1] in instructions:
            what = "a name twice" if match else "no 'name: instruction'"
            raise UserError(f"{file}, line {number}: {what}: {line[:80]!r}")
        instructions[match[1]] = match[2]
    if not instructions:
        raise UserError(f"{file}: holds no perspective; {expected}")
    return tuple(Perspective(*item) for item in instructions.items())
