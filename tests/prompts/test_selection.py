"""Which prompts are kept, and what is said of the others."""

import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import Bounds, Prompt
from mvgrpo_jax.prompts.selection import EXACT, FOLDED, LISTED, Blocklist, Selection
from tests.prompts import made


def kept(texts, **bounds):
    selection = Selection(Bounds(**bounds))
    return [p.text for p in selection.keep(map(Prompt, texts))], [(why, p.text) for why, p in selection.dropped]


def test_repeats_are_those_of_case_and_white_space_too():
    texts = ["A cat", "a dog", "A cat", "a  CAT", "a\tcat", "acat", "STRASSE", "straße", "a dog."]
    found, dropped = kept(texts)
    assert found == ["A cat", "a dog", "acat", "STRASSE", "a dog."]
    assert dropped == [(EXACT, "A cat"), (FOLDED, "a  CAT"), (FOLDED, "a\tcat"), (FOLDED, "straße")]
    assert kept(texts, dedup=False) == (texts, [])


def test_a_repeat_of_a_folded_one_is_exact():
    assert kept(["a", "A", "A"])[1] == [(FOLDED, "A"), (EXACT, "A")]


def test_ten_thousand_repeats_are_counted():
    selection = Selection(Bounds())
    assert selection.keep(Prompt("a cat", {"n": n}) for n in range(10_001)) == [Prompt("a cat", {"n": 0})]
    assert selection.counts() == {EXACT: (10_000, "a cat")}


def test_repeats_over_sources():
    selection = Selection(Bounds())
    assert len(selection.keep([Prompt("a"), Prompt("b")])) == 2
    assert selection.keep([Prompt("B"), Prompt("c")]) == [Prompt("c")]


def test_lengths_are_bounds_that_belong_to_them():
    texts = ["a", "ab", "abc", "abcd", "äöüß"]
    assert kept(texts, min_length=2, max_length=3) == (
        ["ab", "abc"],
        [("shorter than 2 characters", "a"), ("longer than 3 characters", "abcd"), ("longer than 3 characters", "äöüß")],
    )
    assert kept(texts, min_length=4)[0] == ["abcd", "äöüß"] and kept(texts)[0] == texts


@pytest.mark.parametrize(
    "text, phrase",
    [
        ("a NUDE cat", "nude"),
        ("nude-cat", "nude"),
        ("a nudes cat", ""),
        ("an old, grey\ncity", "Old grey city"),
        ("an old and grey city", ""),
        ("an old grey", ""),
        ("old old grey city", "Old grey city"),
        ("一幅裸体画", "裸体"),
        ("一幅裸 体画", "裸体"),
        ("一幅画", ""),
        ("don't", "don't"),
        ("do not", ""),
        ("", ""),
    ],
)
def test_a_blocklist_finds_words_and_phrases(text, phrase):
    assert Blocklist(["nude", "Old grey city", "裸体", "don't", "old grey wall"]).find(text) == phrase


def test_a_blocklist_is_a_file(tmp_path):
    path = made.write(tmp_path / "b.txt", "\ufeffnude\r\n\r\n old city \r\n")
    found, dropped = kept(["a cat", "a nude", "an old city", "an old  CITY"], blocklist=str(path))
    assert found == ["a cat"]
    assert dropped == [
        (LISTED, "a nude"),
        (LISTED, "an old city"),
        (FOLDED, "an old  CITY"),
    ]


def test_it_is_counted_which_phrase_drops(tmp_path):
    path = made.write(tmp_path / "b.txt", "nude\nold city\nnever\n")
    selection = Selection(Bounds(blocklist=str(path)))
    selection.keep(map(Prompt, ["a nude", "old city", "nude in an old city", "an old  City"]))
    assert selection.phrases == {"nude": 2, "old city": 2} and selection.counts() == {LISTED: (4, "a nude")}


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "b.txt is empty; expected a UTF-8 text file with a word"),
        ("a\n\n!!\n", r"line 3 has no word \('!!'\)"),
        (b"caf\xe9\n", "blocklist .*line 1, byte 0xe9"),
    ],
)
def test_blocklists_that_cannot_be_read(tmp_path, content, expected):
    with pytest.raises(UserError, match=expected):
        Blocklist.read(made.write(tmp_path / "b.txt", content))
    with pytest.raises(UserError, match="blocklist /nowhere does not exist"):
        Blocklist.read("/nowhere")
