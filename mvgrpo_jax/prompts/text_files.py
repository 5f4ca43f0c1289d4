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
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found, remedy = _diagnosis(data, error, path)
        raise UserError(f"{kind} {path} is not UTF-8 text ({found}); save it as UTF-8, {remedy}; {expected}") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        remedy = f"iconv -f UTF-16LE -t UTF-8 {path} > NEW, if it is UTF-16 without its mark"
        raise UserError(
            f"{kind} {path} is not text (it has zero bytes, from line {line} on); save it as UTF-8, {remedy}; {expected}"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _diagnosis(data: bytes, error: UnicodeDecodeError, path: Path) -> tuple[str, str]:
    """What bytes that are not UTF-8 look like, and a command that makes them UTF-8."""
    for mark, name in MARKS:
        if data.startswith(mark):
            return f"it begins with the mark of {name}", f"iconv -f {name} -t UTF-8 {path} > NEW"
    data, at = error.object, error.start  # without the mark of UTF-8
    before = data[:at].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    number = before.count(b"\n") + 1
    begin = before.rfind(b"\n") + 1
    rest = data[at : at + SHOWN].replace(b"\r", b"\n").split(b"\n")[0]
    line = before[begin:].decode("utf-8", "replace")[-SHOWN:] + rest.decode("cp1252", "replace")
    found = f"line {number}, byte 0x{data[at]:02x}; as Latin-1 it would be {line!r}"
    remedy = f"iconv -f WINDOWS-1252 -t UTF-8 {path} > NEW"
    if any(byte >= 0x80 for byte in before):
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
