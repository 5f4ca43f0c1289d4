"""What is known of pictures survives kills and full disks, line by line."""

import errno
import json
import os

import jax
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.evaluation import ledger


@pytest.fixture
def book(tmp_path):
    return ledger.Ledger(tmp_path, "judge clip=/models/a")


def test_lines_of_all_processes_are_read_and_a_value_beats_none(book, monkeypatch):
    book.add({"a": 1.5, "b": None})
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    other = ledger.Ledger(book.folder.parents[1], "judge clip=/models/a")
    assert other.file != book.file and other.folder == book.folder
    other.add({"b": 2.5, "c": None})
    book.add({"c": {"x": [1]}, "b": None})
    assert book.read() == other.read() == {"a": 1.5, "b": 2.5, "c": {"x": [1]}}
    assert ledger.Ledger(book.folder.parents[1], "judge clip").read() == {}


def test_a_line_that_was_cut_short_does_not_count_and_is_mended(book):
    book.add({"a": 1, "b": 2})
    whole = book.file.read_bytes()
    for cut in (1, 7, 20):
        book.file.write_bytes(whole[:-cut])
        assert book.read() == {"a": 1}
        book.mend()
        book.add({"c": 3})
        assert book.read() == {"a": 1, "c": 3}
    book.file.write_bytes(whole[:-5] + b"\n" + whole)  # gone on after it without mending
    assert book.read() == {"a": 1, "b": 2}


def test_a_full_disk_leaves_no_half_line(book, monkeypatch):
    book.add({"a": 1})
    write = os.write

    def full(descriptor, data):
        if len(data) < 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:10])  # a part at a time

    monkeypatch.setattr(ledger.os, "write", full)
    with pytest.raises(UserError, match="No space left on device.*run the same command again"):
        book.add({"b": "x" * 40})
    monkeypatch.undo()
    assert [json.loads(line)["key"] for line in book.file.read_text().splitlines()] == ["a"]


def test_a_file_that_takes_a_part_at_a_time_gets_all(book, monkeypatch):
    write = os.write
    monkeypatch.setattr(ledger.os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    book.add({"a": "long " * 20})
    assert book.read() == {"a": "long " * 20}
