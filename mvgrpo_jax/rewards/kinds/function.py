"""A function of one's own as a judge: {"kind": "function", "path": "FILE.py:NAME"} or "PACKAGE.MODULE:NAME".

The function takes pictures uint8 [N, H, W, 3] and captions, N lists of V texts, and returns scores [N, V]; NaN or None where it
cannot tell. It runs on the host of the process that has the pictures. Where a caption is missing it gets '', and that score is
not used. One with a third parameter also gets the N prompts' metadata, a dict each: the other fields of their records in the
file of prompts (style, tag, target, GenEval's include, ...). Examples: rewards/examples.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from mvgrpo_jax.configuration.rules import Text
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.preprocess import as_uint8


class Function:
    """path: where the function is. UserError where there is none, where it raises, and where it returns anything but N x V
    numbers, each with the line."""

    def __init__(self, path: str):
        self.path, self.function = path, find(path)
        self.records: dict[str, dict] = {}  # of prompts by their texts (base.HostJudge)
        self.takes_records = _parameters(self.function) > 2
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        self.file, self.line = (code.co_filename, code.co_firstlineno) if code else ("", 0)

    def take_cut(self) -> int:
        return 0

    def score(self, images: np.ndarray, captions: list[list[str | None]]) -> Judgement:
        """Of pictures [N, H, W, 3] under texts [N][V]; a score that is no finite number is not valid."""
        texts = [["" if text is None else text for text in row] for row in captions]
        further = [[self.records.get(row[0], {}) for row in texts]] if self.takes_records else []
        try:
            value = self.function(as_uint8(images), texts, *further)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the function {self.path} raised {type(error).__name__} ({error}) at {_line(error, self.file)}"
            ) from error
        shape = (len(images), len(texts[0]))
        try:
            scores = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise UserError(f"{self._where()} returned {_brief(value)}; expected numbers {list(shape)}") from None
        if scores.shape != shape:
            raise UserError(
                f"{self._where()} returned scores {list(scores.shape)} for {shape[0]} pictures under {shape[1]} captions each; "
                f"expected {list(shape)}"
            )
        there = np.asarray([[text is not None for text in row] for row in captions])
        valid = np.isfinite(scores) & there
        return Judgement(np.where(valid, scores, 0.0), valid)

    def _where(self) -> str:
        """The function with its file and line."""
        return f"the function {self.path}" + (f", {self.file} line {self.line}," if self.line else "")


def _parameters(function: Callable) -> int:
    """How many positional ones without a default it has, as far as it tells."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # as of some that are written in C
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in found)


def find(path: str) -> Callable:
    """The function that 'FILE.py:NAME' or 'PACKAGE.MODULE:NAME' names. UserError where there is none."""
    place, colon, name = path.rpartition(":")
    if not place or not name:
        raise UserError(f"path {path!r} of a function: expected FILE.py:NAME or PACKAGE.MODULE:NAME")
    module = _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, f in vars(module).items() if inspect.isfunction(f) and not n.startswith("_")]
        raise UserError(f"path {path!r}: no function {name!r} there;{did_you_mean(name, known)} there are: {', '.join(known)}")
    return function


def _module(place: str) -> ModuleType:
    file = Path(place)
    try:
        if file.suffix != ".py":
            return importlib.import_module(place)
        if not file.is_file():
            raise UserError(f"path {place}: no such file")
        name = f"_judge_{file.stem}_{abs(hash(file.resolve()))}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file)
            module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses and pickle look there
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{place} cannot be imported: {type(error).__name__} ({error}) at {_line(error, place)}") from error


def _line(error: Exception, file: str) -> str:
    """Where an error came from: the last line of the file itself, or where it is in none of its lines, the last of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename} line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if frame.filename == file] or frames)[-1]
    return f"{last.filename} line {last.lineno}"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


JUDGE, PLACE = Function, "path"
RULES = {"path": Text(empty=False)}
