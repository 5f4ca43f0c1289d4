"""Text files that people write: UTF-8 with or without a byte order mark, whose lines end as any system ends them.

Lines end with a line feed, a carriage return or both, and with nothing else that Unicode may break a line at.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from mvgrpo_jax.errors import UserError

# Byte order marks of what is not UTF-8; the longer ones first, since UTF-16's is the beginning of UTF-32's.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
SHOWN = 40  # characters of a line that a message repeats


def read(path: Path, kind: str, expected: str) -> str:
    """The text without byte order mark, its lines ended by line feeds alone. kind: what messages call the file ('prompt
    file'). expected: what it should hold, for messages. UserError: a file that is missing, cannot be read or is not text; it
    names the first line that is not UTF-8 and the command that converts the file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{kind} {path} does not exist; {expected}") from None
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read ({error.strerror}); {expected}") from None
    if wide := _wide(data):
        raise UserError(f"{kind} {path} is not UTF-8 text ({wide[0]}); save it as UTF-8, {_convert(wide[1], path)}; {expected}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found, remedy = _other_bytes(error, path)
        raise UserError(f"{kind} {path} is not UTF-8 text ({found}); save it as UTF-8, {remedy}; {expected}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _convert(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t UTF-8 {path} > NEW"


def _wide(data: bytes) -> tuple[str, str] | None:
    """(what shows it, encoding) of bytes that are UTF-16 or UTF-32, or have zeros as those do."""
    for mark, name in MARKS:
        if data.startswith(mark):
            return f"it begins with the mark of {name}", name
    if (at := data.find(b"\0")) < 0:
        return None
    even, odd = data[::2].count(0), data[1::2].count(0)  # of a Latin letter the high byte is zero, and comes first in BE
    return f"it has zero bytes, from line {_line(data[:at])} on", "UTF-16BE" if even > odd else "UTF-16LE"


def _line(before: bytes) -> int:
    """The number of the line that begins or goes on after these bytes."""
    return before.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1


def _other_bytes(error: UnicodeDecodeError, path: Path) -> tuple[str, str]:
    """What the first bytes that are not UTF-8 look like, and a command that makes the file UTF-8."""
    data, at = error.object, error.start  # without the mark of UTF-8
    number, begin = _line(data[:at]), max(data.rfind(b"\n", 0, at), data.rfind(b"\r", 0, at)) + 1
    rest = data[at : at + SHOWN].replace(b"\r", b"\n").split(b"\n")[0]
    line = data[begin:at].decode("utf-8", "replace")[-SHOWN:] + rest.decode("cp1252", "replace")
    found = f"line {number}, byte 0x{data[at]:02x}; as Latin-1 it would be {line!r}"
    remedy = _convert("WINDOWS-1252", path)
    if not data[:at].isascii():
        remedy = (
            f"what stands before is UTF-8, so files of two encodings were joined: take them apart at line {number} ({remedy})"
        )
    return found, remedy


def stripped(line: str) -> str:
    """Without white space around it, nor a byte order mark that stood at the head of a file joined to another."""
    return line.strip().lstrip("\ufeff").strip()


def lines(text: str) -> list[tuple[int, str]]:
    """(number from 1, stripped line) of each line of `read`'s text that is not blank."""
    return [(number, kept) for number, line in enumerate(text.split("\n"), 1) if (kept := stripped(line))]
