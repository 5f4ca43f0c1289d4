"""Tables as the Hub stores them."""

import sys

import pytest

from mvgrpo_jax import prompts
from mvgrpo_jax.errors import UserError
from tests.prompts import made


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = made.write(tmp_path / "p.parquet", b"PAR1")
    with pytest.raises(UserError, match=r"needs pyarrow, which is not installed; pip install 'mvgrpo_jax\[parquet\]'"):
        prompts.read(path)


def table(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_rows_are_prompts_and_pictures_are_not_read(tmp_path):
    path = table(
        tmp_path / "p.parquet",
        Prompts=["a cat", "a dog"],
        Category=["Colors", "Text"],
        seed=[1, None],
        image=[{"bytes": b"\xff\xd8", "path": "a.jpg"}, {"bytes": b"\xff", "path": "b.jpg"}],
        raw=[b"\0", b"\1"],
        objects=[[{"class": "cat", "count": 1}], []],
    )
    file = prompts.read_file(path)
    assert (file.kind, file.form, file.records) == ("drawbench", "Parquet", 2)
    assert file.prompts == [
        prompts.Prompt("a cat", {"tag": "Colors", "seed": 1, "objects": [{"class": "cat", "count": 1}]}),
        prompts.Prompt("a dog", {"tag": "Text", "seed": None, "objects": []}),
    ]


def test_sets_in_parquet_are_told(tmp_path):
    rows = made.geneval_rows()[:8]
    path = table(tmp_path / "p.parquet", **{name: [row[name] for row in rows] for name in ("tag", "include", "prompt")})
    file = prompts.read_file(path)
    assert file.kind == "geneval" and [p.metadata["include"] for p in file.prompts] == [row["include"] for row in rows]


@pytest.mark.parametrize(
    "columns, expected",
    [
        ({"question": ["a"]}, "row 1 has no prompt field; found: 'question'"),
        ({"prompt": ["a", None]}, "row 2, column 'prompt', is null"),
        ({"prompt": [""]}, "row 1, column 'prompt', is an empty prompt"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, columns, expected):
    with pytest.raises(UserError, match=expected):
        prompts.read(table(tmp_path / "p.parquet", **columns))


def test_an_empty_split(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="p.parquet is empty"):
        prompts.read(table(tmp_path / "p.parquet", prompt=pyarrow.array([], pyarrow.string())))


@pytest.mark.parametrize("content", [b"", b"prompt\na\n", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_what_is_no_parquet(tmp_path, content):
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="no Parquet file or damaged"):
        prompts.read(made.write(tmp_path / "p.parquet", content))
    with pytest.raises(UserError, match="does not exist"):
        prompts.read(tmp_path / "none.parquet")
