"""Files in other encodings are refused with the line and the command that mends them, which does."""

import re
import shutil
import subprocess

import pytest

from mvgrpo_jax import prompts
from mvgrpo_jax.errors import UserError

CAFE = "un café au bord de la mer"


def refusal(path):
    with pytest.raises(UserError, match="save it as UTF-8") as error:
        prompts.read(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.json"])
@pytest.mark.parametrize(
    "encoding, said", [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-be", "zero bytes, from line 1 ")]
)
def test_wide_encodings(tmp_path, name, encoding, said):
    path = tmp_path / name
    path.write_bytes(f"prompt,tag\n{CAFE},b\n".encode(encoding))
    message = refusal(path)
    assert said in message and "iconv -f UTF-" in message


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_latin_1_says_which_line(tmp_path, ending, mark):
    path = tmp_path / "p.txt"
    path.write_bytes(mark + f"a cat{ending}a dog{ending}{CAFE}{ending}a bird".encode("latin-1"))
    message = refusal(path)
    assert f"line 3, byte 0xe9; as Latin-1 it would be {CAFE!r}" in message
    assert "joined" not in message and "iconv -f WINDOWS-1252 -t UTF-8" in message


def test_joined_files_of_two_encodings_say_where(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(f"{CAFE}\n".encode() * 5 + f"{CAFE}\n".encode("latin-1"))
    message = refusal(path)
    assert "line 6, byte 0xe9" in message and "two encodings were joined: take them apart at line 6" in message


def test_zero_bytes_say_where_they_begin(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"a\nb\n" + "c\n".encode("utf-16-le"))
    assert "zero bytes, from line 3 on" in refusal(path)


@pytest.mark.skipif(not shutil.which("iconv"), reason="the remedy is a command of Unix")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp1252", "utf-16-le", "utf-16-be"])
def test_the_remedy_mends_it(tmp_path, encoding):
    path = tmp_path / "p.txt"
    path.write_bytes(f"a “cat”\n{CAFE}\n".encode(encoding))
    command = re.search(r"(iconv .* > NEW)", refusal(path))[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert [p.text for p in prompts.read(tmp_path / "NEW")] == ["a “cat”", CAFE]
