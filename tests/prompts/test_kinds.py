"""Published sets of prompts: told by name and content, with fields and counts as published, and refused where they are not."""

import json
from collections import Counter

import pytest

from mvgrpo_jax import prompts
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import kinds
from tests.prompts import made


def told(path, count):
    """The file, which is read as its own kind and as that kind when it is named; it has `count` prompts."""
    file = prompts.read_file(path)
    assert len(file.prompts) == count
    again = prompts.read_file(path, file.kind)
    assert (again.kind, again.prompts, again.notes) == (file.kind, file.prompts, file.notes)
    return file


def test_pairs_of_hpdv2_are_read_once_a_prompt(tmp_path):
    path, pairs = made.hpdv2_train(tmp_path)
    file = told(path, 50)
    assert (file.kind, file.records, pairs) == ("hpdv2", pairs, 50 + 12 * 6 + 1)
    assert [p.text for p in file.prompts] == [f"a made-up scene, {i}" for i in range(50)]
    assert [p.metadata for p in file.prompts] == [{"pairs": 1 + i % 4} for i in range(50)]
    assert list(file.notes.values()) == [pairs - 50]


def test_the_test_split_of_hpdv2_has_four_blocks(tmp_path):
    file = told(made.hpdv2_test(tmp_path), 400)
    assert file.kind == "hpdv2" and not file.notes
    assert [p.metadata["style"] for p in file.prompts] == [style for style in made.STYLES for _ in range(100)]
    assert file.prompts[250].text == "a made-up test scene, 250"
    assert file.prompts[250].metadata == {
        "style": "paintings",
        "image_path": ["250_0.jpg", "250_1.jpg", "250_2.jpg"],
        "rank": [2, 0, 1],
    }


def test_a_part_of_it_has_no_styles_and_says_so(tmp_path):
    file = told(made.hpdv2_test(tmp_path, 399), 399)
    assert not any("style" in p.metadata for p in file.prompts)
    assert file.notes == {"without a style, which only 400 prompts in blocks of 100 have": 399}


@pytest.mark.parametrize("prefix", ["", "benchmark_"])
@pytest.mark.parametrize("style", made.STYLES)
def test_the_benchmark_of_hpdv2_has_its_style_in_its_name(tmp_path, style, prefix):
    file = told(made.benchmark(tmp_path, style, prefix=prefix), 800)
    assert file.kind == "hpdv2" and Counter(p.metadata["style"] for p in file.prompts) == {style: 800}


def test_mixgrpos_test_list_is_hpdv2s(tmp_path):
    file = told(made.lines(tmp_path / "prompts_test.txt", 400), 400)
    assert file.kind == "mixgrpo"
    assert Counter(p.metadata["style"] for p in file.prompts) == dict.fromkeys(made.STYLES, 100)
    assert file.prompts[99].metadata["style"] == "anime" and file.prompts[100].metadata["style"] == "concept-art"
    other = prompts.read_file(made.lines(tmp_path / "b" / "prompts_test.txt", 401))
    assert other.kind == "plain" and not any(p.metadata for p in other.prompts)
    train = prompts.read_file(made.lines(tmp_path / "prompts.txt", 400), "mixgrpo")
    assert not any(p.metadata for p in train.prompts) and not train.notes


@pytest.mark.parametrize(
    "name, kind",
    [
        ("pickscore/train.txt", "pickscore"),
        ("pickscore/test.txt", "pickscore"),
        ("DanceGRPO/assets/prompts.txt", "dancegrpo"),
        ("elsewhere/prompts.txt", "plain"),
    ],
)
def test_lists_are_told_by_their_folders(tmp_path, name, kind):
    path = made.lines(tmp_path / name, 30)
    assert told(path, 30).kind == kind
    assert prompts.read(path) == [prompts.Prompt(f"a made-up line, {i}") for i in range(30)]


def test_geneval_keeps_what_a_detector_needs(tmp_path):
    file = told(made.geneval(tmp_path / "test_metadata.jsonl"), 2212)
    assert (file.kind, file.notes) == ("geneval", {})
    assert len({p.text for p in file.prompts}) == 553
    assert Counter(p.metadata["tag"] for p in file.prompts) == made.GENEVAL
    for prompt, row in zip(file.prompts, made.geneval_rows()):
        assert prompt.metadata == {key: value for key, value in row.items() if key != "prompt"}


@pytest.mark.parametrize("name", ["ocr/test.txt", "ocr_test.txt"])
def test_ocr_has_targets(tmp_path, name):
    file = told(made.ocr(tmp_path / name), 1018)
    assert file.kind == "ocr" and file.notes == {"without a target: no text between double quotes": 1}
    assert [p.metadata.get("target") for p in file.prompts] == ["Open 0", None, *[f"Open {i}" for i in range(2, 1018)]]


def test_ocr_of_texts_with_odd_quotes(tmp_path):
    texts = {'a sign "': None, 'a sign "" there': None, 'a 5" pipe "x y"': "pipe", "a sign “Open”": None, '{"Stop"}': "Stop"}
    path = made.write(tmp_path / "ocr.txt", "\n".join(texts))
    file = prompts.read_file(path, "ocr")
    assert {p.text: p.metadata.get("target") for p in file.prompts} == texts and file.notes.total() == 3


def test_a_list_that_was_saved_in_another_form(tmp_path):
    path = made.write(tmp_path / "ocr.jsonl", json.dumps({"prompt": 'a sign "Yes"', "seed": 1}))
    assert prompts.read(path, "ocr") == [prompts.Prompt('a sign "Yes"', {"seed": 1, "target": "Yes"})]
    assert prompts.read(path, "lines") == [prompts.Prompt(path.read_text())]


@pytest.mark.parametrize("name", ["drawbench.csv", "drawbench.tsv", "anything.csv"])
def test_drawbench_as_a_table(tmp_path, name):
    file = told(made.drawbench(tmp_path / name), 200)
    assert file.kind == "drawbench" and Counter(p.metadata["tag"] for p in file.prompts) == {"Colors": 100, "Counting": 100}
    assert set(file.prompts[0].metadata) == {"tag"}


@pytest.mark.parametrize("prefix", ["", "benchmark_"])
def test_drawbench_as_a_list(tmp_path, prefix):
    file = told(made.benchmark(tmp_path, "drawbench", 200, prefix), 200)
    assert file.kind == "drawbench" and not any(p.metadata for p in file.prompts)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_unigenbench_has_points_to_test(tmp_path, language):
    file = told(made.unigenbench(tmp_path / f"test_prompts_{language}.csv", language), 600)
    assert (file.kind, file.notes) == ("unigenbench", {})
    prompt = file.prompts[7]
    assert prompt.text == {"en": 'a picture, with "quotes", of 7', "zh": "一幅画，第7幅。"}[language]
    dims = prompt.metadata.pop("sub_dims")
    assert prompt.metadata == {
        "index": "7",
        "tag": "Design",
        "testpoints": ["Style", "Color"],
        "testpoint_descriptions": ["oil, 7", '"red"'],
    }
    assert list(dims) == made.UNIGENBENCH[language] and list(dims.values())[1:4] == ["Graphic", "Animal", "Descriptive"]


def test_unigenbench_counts_points_without_descriptions(tmp_path):
    rows = [[0, "a", '{"Testpoints": ["Style"], "Testpoint Description": ["x", "y"]}'], [1, "b", "{}"]]
    path = made.table(tmp_path / "u.csv", ["index", "prompt_en", "sub_dims_en"], rows)
    file = prompts.read_file(path)
    assert file.notes == {"with other numbers of testpoints and of their descriptions": 1}
    assert file.prompts[1].metadata == {"index": "1", "sub_dims": {}}


def test_normal_names_of_metadata(tmp_path):
    rows = [
        {"prompt": "a", "Style": "anime", "Category": "x", "seed": 1},
        {"prompt": "b", "tag": "t", "category": "c", "TARGET": "w"},
    ]
    path = made.write(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert [p.metadata for p in prompts.read(path)] == [
        {"style": "anime", "tag": "x", "seed": 1},
        {"tag": "t", "category": "c", "target": "w"},
    ]


def test_lines_can_be_asked_for(tmp_path):
    path = made.write(tmp_path / "p.txt", 'prompt,tag\n{"prompt": "a"}\n')
    assert [p.text for p in prompts.read(path, "lines")] == ["prompt,tag", '{"prompt": "a"}']
    assert prompts.read(made.write(tmp_path / "q.txt", "prompt,tag\na,b\n")) == [prompts.Prompt("a", {"tag": "b"})]


def test_every_kind_is_told_apart(tmp_path):
    """No file of these fits two kinds."""
    files = [
        made.hpdv2_train(tmp_path)[0],
        made.hpdv2_test(tmp_path),
        *(made.benchmark(tmp_path, style, 8) for style in (*made.STYLES, "drawbench")),
        made.lines(tmp_path / "prompts_test.txt", 400),
        made.lines(tmp_path / "pickscore" / "train.txt", 8),
        made.lines(tmp_path / "dancegrpo" / "prompts.txt", 8),
        made.geneval(tmp_path / "g.jsonl"),
        made.ocr(tmp_path / "ocr.txt", 8),
        made.drawbench(tmp_path / "d.csv", 8),
        *(made.unigenbench(tmp_path / f"{language}.csv", language, 8) for language in ("en", "zh")),
    ]
    found = Counter()
    for path in files:
        _, records = prompts.reading.forms.read(path)
        fitting = [kind for kind in kinds.names() if kind != kinds.ANY and kinds.module(kind).fits(path, records)]
        assert len(fitting) == 1, f"{path}: {fitting}"
        found[fitting[0]] += 1
    assert set(found) == set(kinds.names()) - {"plain", "lines"}


PAIR = {"prompt": "a", "human_preference": [1, 0], "file_path": ["a", "b"]}
ROW = {"tag": "counting", "include": [{"class": "cup", "count": 1}], "prompt": "a"}


@pytest.mark.parametrize(
    "kind, name, content, expected",
    [
        ("nothing", "p.txt", "a", "unknown kind of prompts 'nothing'; there are: dancegrpo, drawbench, geneval"),
        ("geneva", "p.txt", "a", "Did you mean 'geneval'"),
        (
            "hpdv2",
            "p.json",
            '[{"text": "a"}]',
            "item 1 is no record of HPDv2; expected the fields 'prompt', 'human_pref.*found: 'text'",
        ),
        ("", "train.json", json.dumps([PAIR, {**PAIR, "prompt": 3}]), "item 2, field 'prompt', is a number"),
        (
            "",
            "train.json",
            json.dumps([PAIR, {"human_preference": []}]),
            "item 2 has no field 'prompt'.*its fields: 'human_preference'",
        ),
        ("", "train.json", json.dumps([PAIR, "b"]), "item 2 is a text, where the others are pairs"),
        (
            "",
            "g.jsonl",
            json.dumps(ROW) + '\n{"tag": "x", "prompt": "b"}',
            "line 2 is no record of GenEval; .*found: 'tag', 'prompt'",
        ),
        ("geneval", "g.txt", "a cup\n", "line 1 is no record of GenEval; .*found: a text"),
        ("geneval", "g.jsonl", json.dumps({**ROW, "include": [{"class": "cup"}]}), "line 1, field 'include': expected a list"),
        ("", "g.jsonl", json.dumps({**ROW, "exclude": {"class": "cup"}}), "line 1, field 'exclude': expected a list of"),
        (
            "unigenbench",
            "u.csv",
            "index,prompt\n1,a\n",
            "no prompt field; found: 'index', 'prompt'; expected one of: prompt_en, prompt_zh",
        ),
        ("", "u.csv", "index,prompt_en,sub_dims_en\n1,a,{\n", "line 2, column 'sub_dims_en', is not JSON"),
        (
            "",
            "u.csv",
            "index,prompt_en,sub_dims_en\n1,a,[]\n",
            "line 2, column 'sub_dims_en', is a list; expected a JSON object",
        ),
        ("", "u.csv", "index,prompt_en,sub_dims_en\n1,a\n", "line 2, column 'sub_dims_en', is not JSON"),
        ("unigenbench", "u.txt", "a cat\n", "expected a table with the column prompt_en or prompt_zh"),
        ("", "test.json", "[]", "test.json is empty"),
        ("hpdv2", "test.json", "[]", "test.json is empty"),
        ("ocr", "ocr.txt", "\n\n", "ocr.txt is empty"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, kind, name, content, expected):
    with pytest.raises(UserError, match=expected):
        prompts.read(made.write(tmp_path / name, content), kind)
