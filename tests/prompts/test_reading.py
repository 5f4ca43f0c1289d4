"""Prompt files of every form that people bring, and the refusals of those that are none."""

import json

import pytest

from mvgrpo_jax import prompts
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import Prompt

RED, BLUE = "a red triangle on a white background", "a blue circle, alone"


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_of_every_system(tmp_path, ending, mark):
    path = write(tmp_path, "p.txt", mark + ending.join([f"  {RED}", "", BLUE + "\t", ""]))
    assert prompts.read(path) == [Prompt(RED), Prompt(BLUE)]
    assert prompts.load_prompts(str(path), 0, held_out=False) == [RED, BLUE]
    assert prompts.load_prompts(str(path), 1, held_out=False) == [RED]


def test_files_with_marks_that_were_joined(tmp_path):
    assert prompts.read_prompts(write(tmp_path, "p.txt", f"\ufeff{RED}\r\n\ufeff{BLUE}\r\n")) == [RED, BLUE]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85"])
def test_nothing_but_newlines_separates(tmp_path, mark):
    assert prompts.read_prompts(write(tmp_path, "p.txt", f"a{mark}b\nc\n")) == [f"a{mark}b", "c"]
    lines = "".join(json.dumps({"prompt": f"a{mark}b", "n": n}, ensure_ascii=False) + "\n" for n in range(2))
    assert prompts.read_prompts(write(tmp_path, "p.jsonl", lines)) == [f"a{mark}b"] * 2
    assert prompts.read_prompts(write(tmp_path, "p.csv", f"prompt,n\na{mark}b,1\n")) == [f"a{mark}b"]


@pytest.mark.parametrize("name", ["p.jsonl", "p.ndjson", "p.json", "p.txt", "p"])
@pytest.mark.parametrize("field", ["prompt", "Prompt", "PROMPTS", "caption", "text"])
def test_json_lines(tmp_path, name, field):
    rows = [{"tag": "one", "include": [{"class": "triangle"}], field: RED}, {field: f" {BLUE}\n"}]
    path = write(tmp_path, name, "\ufeff" + "\r\n\r\n".join(json.dumps(row) for row in rows))
    assert prompts.read(path) == [Prompt(RED, {"tag": "one", "include": [{"class": "triangle"}]}), Prompt(BLUE)]


@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.txt"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_lists(tmp_path, name, indent):
    content = json.dumps([RED, {"prompt": BLUE, "caption": "kept", "seed": 3}], indent=indent)
    assert prompts.read(write(tmp_path, name, content)) == [Prompt(RED), Prompt(BLUE, {"caption": "kept", "seed": 3})]


def test_one_object_over_several_lines(tmp_path):
    assert prompts.read(write(tmp_path, "p.json", json.dumps({"prompt": RED, "n": 1}, indent=1))) == [Prompt(RED, {"n": 1})]


def test_lines_of_json_strings(tmp_path):
    assert prompts.read_prompts(write(tmp_path, "p.jsonl", f'"{RED}"\n"{BLUE}"\n')) == [RED, BLUE]


@pytest.mark.parametrize("name, separator", [("p.csv", ","), ("p.tsv", "\t"), ("p.csv", ";"), ("p.txt", ","), ("p.txt", "\t")])
def test_tables(tmp_path, name, separator):
    rows = [
        ["seed", "Prompt", "source"],
        ["1", '"a red, ""big""\r\ntriangle; on\twhite"', "hpd"],
        [],
        ["2", RED, ""],
        ["3", BLUE],
    ]
    if separator == ",":
        rows[-1][1] = f'"{BLUE}"'
    path = write(tmp_path, name, "\ufeff\r\n" * (name == "p.csv") + "\r\n".join(separator.join(row) for row in rows))
    assert prompts.read(path) == [
        Prompt('a red, "big"\ntriangle; on\twhite', {"seed": "1", "source": "hpd"}),
        Prompt(RED, {"seed": "2", "source": ""}),
        Prompt(BLUE, {"seed": "3", "source": ""}),
    ]


@pytest.mark.parametrize("name, separator", [("p.csv", ","), ("p.csv", ";"), ("p.tsv", "\t"), ("p.txt", ",")])
def test_a_table_with_a_quoted_header(tmp_path, name, separator):
    content = f'"n"{separator}"text"\n"1"{separator}"{BLUE}"\n'
    assert prompts.read(write(tmp_path, name, content)) == [Prompt(BLUE, {"n": "1"})]


def test_a_table_of_one_column(tmp_path):
    assert prompts.read_prompts(write(tmp_path, "p.csv", f"Prompts\n{RED}\n")) == [RED]


@pytest.mark.parametrize(
    "line", ["{red|blue} car", "[oil painting] a cat", '"a cat", she said', "caption, text, cat", "prompt", "12"]
)
def test_texts_that_only_look_like_json_or_a_header(tmp_path, line):
    assert prompts.read_prompts(write(tmp_path, "p.txt", f"{line}\n{RED}\n")) == [line, RED]


@pytest.mark.parametrize(
    "name, content, expected",
    [
        (
            "p.jsonl",
            '{"tag": "x", "question": "y"}\n',
            "line 1 has no prompt field; found: 'tag', 'question'; expected one of: prompt",
        ),
        ("p.json", '{"data": ["a"]}', "no prompt field; found: 'data'; expected one of: prompt"),
        ("p.json", '[["a"], ["b"]]', "item 1 is a list, neither a string nor an object"),
        ("p.txt", '[["a"], ["b"]]', "item 1 is a list, neither a string nor an object"),
        ("p.json", "[1, 2]", "item 1 is a number, neither"),
        ("p.json", "17", "line 1 is a number, neither"),
        ("p.json", '[\n"a",\n"b"\n', "begins as a JSON list and is none .*line 3"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"\n', "line 3 is not JSON"),
        ("p.txt", '{"prompt": "a"}\na cat\n', "line 2 is not JSON"),
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"caption": "b"}\n',
            "line 2 has no field 'prompt', which the others have; its fields: 'caption'",
        ),
        ("p.jsonl", '{"prompt": ["a"]}\n', "line 1, field 'prompt', is a list; expected the text"),
        ("p.jsonl", '{"prompt": null}\n', "line 1, field 'prompt', is null"),
        ("p.jsonl", '{"prompt": " "}\n', "line 1, field 'prompt', is an empty prompt"),
        ("p.jsonl", '{"prompt": "\\ud83d"}\n', "not Unicode text"),
        ("p.jsonl", '{"prompt": ' + "[" * 100_000 + "\n", "line 1 is not JSON"),
        ("p.csv", "question,seed\na,1\n", "has no prompt field; found: 'question', 'seed'; expected one of: prompt"),
        ("p.csv", "prompt,seed\na red, big cat,1\n", "line 2 has 3 cells under a header of 2 .*double quotes"),
        ("p.csv", "seed,prompt\n1\n", "line 2 ends before the column 'prompt'"),
        ("p.csv", "seed,prompt\n1,\n", "line 2, column 'prompt', is an empty prompt"),
        ("p.csv", 'prompt\n"a cat\nb\n', "not a row of a table"),
        ("p.csv", "prompt\n" + "a" * 200_000, "not a row of a table"),
        ("p.csv", "prompt,n\n", "is empty"),
        ("p.csv", ",,\n", "has no prompt field; found: none"),
        ("p.json", "[]", "is empty; expected a text file with a prompt a line"),
        ("p.txt", "\ufeff\r\n \n", "is empty"),
        ("p.txt", "a cat\n".encode("utf-16"), "is not UTF-8 text .*save it as UTF-8"),
        ("p.txt", "a cat\n".encode("utf-16-le"), "zero bytes.*save it as UTF-8"),
    ],
)
def test_refusals_teach(tmp_path, name, content, expected):
    path = write(tmp_path, name, content)
    with pytest.raises(UserError, match=expected) as error:
        prompts.read_prompts(path)
    assert str(path) in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist; expected a text file"):
        prompts.read(tmp_path / "none.txt")
    with pytest.raises(UserError, match="cannot be read"):
        prompts.read(tmp_path)
