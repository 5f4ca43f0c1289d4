"""The table: which judge stands where, the published rows, and what its three forms hold when they are read back."""

import html.parser
import math
import re

import pytest

from mvgrpo_jax.evaluation import published
from mvgrpo_jax.evaluation.columns import PAPER, columns, version
from mvgrpo_jax.evaluation.intervals import Estimate
from mvgrpo_jax.evaluation.table import MARK, Row, Table, cell, html_table, latex, markdown

UR = {"kind": "unifiedreward", "endpoints": ("http://a/v1",)}
JUDGES = {
    "mine": {"kind": "function", "path": "mine.py:red"},
    "ur1": UR | {"version": "v1"},
    "style": UR | {"use": "style"},
    "all": UR,
    "fifths": UR | {"use": "alignment", "scale": "fifths"},
    "clip=/models/a": {"kind": "clip", "folder": "/models/a"},
    "clip=/models/b": {"kind": "clip", "folder": "/models/b"},
    "double": {"kind": "hpsv2", "weights": "HPS_v2.1_compressed.pt", "base": "x", "scale": 2.0},
    "hps": {"kind": "hpsv3", "folder": "/models/HPSv3.safetensors", "base": "y"},
}


def test_a_judge_stands_in_the_papers_column_only_on_its_scale():
    found = columns(JUDGES)
    assert [(name, column.title) for name, column in found.items()] == [
        ("hps", "HPSv3"),
        ("style", "UR-v2 S"),
        ("clip=/models/a", "CLIP"),
        ("ur1", "UR-v1"),
        ("mine", "mine"),
        ("all", "all"),
        ("fifths", "fifths"),
        ("clip=/models/b", "clip=/models/b"),
        ("double", "double"),
    ]
    assert [found[name].scale for name in ("hps", "style", "mine")] == [0.01, 1.0, 1.0]


def test_versions_name_what_judges():
    assert version(JUDGES["hps"]) == "hpsv3, HPSv3.safetensors"
    assert version(JUDGES["style"]) == "unifiedreward, UnifiedReward, use style"
    assert version(JUDGES["double"]) == "hpsv2, HPS_v2.1_compressed.pt, scale 2.0"
    assert version({"kind": "scene"}) == "scene"


def test_published_rows_are_the_papers():
    facts = published.read()
    assert facts["columns"] == [column.title for column in PAPER] and "2603.12648" in facts["source"]
    rows = {(on, method): numbers for on, method, *numbers in facts["rows"]}
    assert len(rows) == 19 and all(len(numbers) == 8 for numbers in rows.values())
    assert rows["-", "Flux.1-dev"] == [0.133, 3.25, 3.634, 3.223, 0.305, 0.389, 1.042, 3.604]
    assert rows["HPSv3", "MV-GRPO (VLM)"] == [0.155, 3.229, 3.701, 3.32, 0.34, 0.37, 1.193, 3.569]
    assert rows["HPSv3+CLIP", "TempFlow-GRPO"][5] == 0.397  # the best CLIP of all
    # Columns that were swapped would leave their ranges.
    for low, high, at in (
        (0.12, 0.16, 0),
        (3.1, 3.8, 1),
        (3.5, 3.8, 2),
        (3.2, 3.5, 3),
        (0.29, 0.35, 4),
        (0.35, 0.4, 5),
        (1, 1.3, 6),
    ):
        assert all(low <= numbers[at] <= high for numbers in rows.values())


def test_cells():
    assert cell(Estimate(0.13312, 0.1311, 0.13551, 0.1, 9)) == "0.133 [0.131, 0.136]"
    assert cell(Estimate(0.5, math.nan, math.nan, 0.0, 1)) == cell(0.5) == "0.500"
    assert cell(None) == cell(Estimate(*[math.nan] * 4, 0)) == ""


TABLE = Table(
    ["HPSv3", "50% <&>"],
    [
        Row("-", "Flux.1-dev", {"HPSv3": 0.133}, MARK),
        Row("a|b", "mine_1 & {x}", {"HPSv3": Estimate(0.14, 0.13, 0.15, 0.01, 4), "50% <&>": Estimate(1.0, 0.5, 1.5, 0.1, 4)}),
    ],
    "3 prompts of a_file.txt, 100 % of <them>.",
)
CELLS = [
    ["Trained on", "Method", "HPSv3", "50% <&>"],
    ["-", "Flux.1-dev (published)", "0.133", ""],
    ["a|b", "mine_1 & {x}", "0.140 [0.130, 0.150]", "1.000 [0.500, 1.500]"],
]


def test_markdown_reads_back():
    *lines, blank, caption = markdown(TABLE).splitlines()
    parsed = [[c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert [parsed[0], *parsed[2:]] == CELLS and blank == "" and caption == TABLE.caption
    assert parsed[1] == ["---", "---", "---:", "---:"]


def test_latex_reads_back():
    text = latex(TABLE)
    body = text[text.index(r"\toprule") + 9 : text.index(r"\bottomrule")].replace("\\midrule\n", "")
    plain = lambda words: re.sub(r"\\([&%$#_{}])", r"\1", words).strip()
    parsed = [[plain(c) for c in re.split(r"(?<!\\)&", line[:-3])] for line in body.strip().splitlines()]
    assert parsed == CELLS and r"\begin{tabular}{llrr}" in text
    assert r"\caption{3 prompts of a\_file.txt, 100 \% of <them>.}" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.classes, self.caption, self.at = [], [], "", None

    def handle_starttag(self, tag, attributes):
        self.at = tag
        if tag == "tr":
            self.rows.append([])
            self.classes.append(dict(attributes).get("class"))
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.at = None

    def handle_data(self, data):
        if self.at in ("td", "th"):
            self.rows[-1][-1] += data
        if self.at == "caption":
            self.caption += data


def test_html_reads_back():
    reader = Reader()
    reader.feed(html_table(TABLE))
    assert reader.rows == CELLS and reader.caption == TABLE.caption and reader.classes == [None, "published", "own"]


@pytest.mark.parametrize("judges", [{"scene": {"kind": "scene"}}, {}])
def test_without_a_judge_of_the_papers_there_are_own_columns_alone(judges):
    assert [column.title for column in columns(judges).values()] == list(judges)
