"""Text files that people write: UTF-8 with or without a byte order mark, whose lines end as any system ends them.

Lines end with a line feed, a carriage return or both, and with nothing else that Unicode may break a line at.
"""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.errors import UserError


def read(path: Path, kind: str, expected: str) -> str:
    """The text without byte order mark, its lines ended by line feeds alone. kind: what messages call the file ('prompt
    file'). expected: what it should hold, for messages. UserError: a file that is missing, cannot be read or is not text."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{kind} {path} does not exist; {expected}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{kind} {path} is not UTF-8 text ({error}); save it as UTF-8; {expected}") from None
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read ({error.strerror}); {expected}") from None
    if "\0" in text:
        raise UserError(f"{kind} {path} is not text (it has zero bytes); save it as UTF-8; {expected}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def stripped(line: str) -> str:
    """Without white space around it, nor a byte order mark that stood at the head of a file joined to another."""
    return line.strip().lstrip("\ufeff").strip()


def lines(text: str) -> list[tuple[int, str]]:
    """(number from 1, stripped line) of each line of `read`'s text that is not blank."""
    return [(number, kept) for number, line in enumerate(text.split("\n"), 1) if (kept := stripped(line))]
