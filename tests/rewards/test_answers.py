"""Scores read from answers: a table by hand, and numbers that hypothesis hides among words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvgrpo_jax.rewards.answers import labelled
from mvgrpo_jax.services import Rejected

V2 = (
    "Alignment Score (1-5): 2.694700002670288\nCoherence Score (1-5): 2.371500015258789\nStyle Score (1-5): 2.802500009536743\n"
)

READ = {
    "Final Score: 4": 4.0,
    "cat (animal): 1\nred (colour): 0\nFinal Score: 3.3\n": 3.3,
    "cat (animal): 1, Final Score: 3.7": 3.7,
    "Final Score: 4/5": 4.0,
    "Final Score: 4.5 / 5.0.": 4.5,
    "Final Score: 4 out of 5": 4.0,
    "**Final Score:** 2.25": 2.25,
    "**Final Score**: **2.25**": 2.25,
    "- Final Score (1-5): 3": 3.0,
    "Final Score (1 to 5) = 5": 5.0,
    "Final Score (1\u20135)\uff1a 1": 1.0,
    "final score: [3]": 3.0,
    "Final Score: 3. The cat is red.": 3.0,
    "Final Score: 4 (good)": 4.0,
    "Final Score: X\nFinal Score: 2": 2.0,  # the format first, as it was asked for
    "Text Caption: [Final Score: 5]\nFinal Score: 2": 2.0,
    "<think>Final Score: 5, or less?</think>Final Score: 2": 2.0,
}
NOT_READ = {
    "": "no score",
    "Final": "no score",  # where a 4-bit model stopped
    "Final Score (1-5):": "no score",
    "Final Score (1-5)": "no score",
    "Final Score: X": "no score",
    "Final Score: nan": "no score",
    "Final Score: 1-5": "no score",
    "Final Score: 3 - 4": "no score",
    "Final Score: 3/10": "no score",
    "Final Score: 3 out of 50": "no score",
    "Final Score: 3/5.5": "no score",
    "Final Score: 3,5": "no score",
    "Final Score: 3.5.2": "no score",
    "Final Score: 80%": "no score",
    "Final Score: 4th": "no score",
    "Final Score: 1e0": "no score",
    "Final Score:\n1. The cat is red.": "no score",
    "Final Score: 4\nFinal Score: unclear": "no score",
    "Semifinal Score: 3": "no score",
    "4": "no score",
    "Final Score: 10": "out of range",
    "Final Score: 0": "out of range",
    "Final Score: 5.01": "out of range",
    "Final Score: -3": "out of range",
    "<think>Final Score: 3": "unfinished thinking",
}


@pytest.mark.parametrize("text", READ)
def test_what_is_a_score(text):
    assert labelled(text, "Final Score") == READ[text]


@pytest.mark.parametrize("text", NOT_READ)
def test_what_is_none(text):
    with pytest.raises(Rejected, match=NOT_READ[text]):
        labelled(text, "Final Score")


def test_each_axis_has_its_own():
    assert [labelled(V2, f"{axis} Score") for axis in ("Alignment", "Coherence", "Style")] == [
        2.694700002670288, 2.371500015258789, 2.802500009536743,
    ]  # fmt: skip
    in_a_line = V2.replace("\n", " ")
    assert labelled(in_a_line, "Coherence Score") == 2.371500015258789
    missing = V2.replace("2.371500015258789", "")  # the next line's number is not this one's
    with pytest.raises(Rejected, match="no score"):
        labelled(missing, "Coherence Score")


def test_a_number_that_was_cut_is_none():
    assert labelled("Final Score: 4.25\n", "Final Score", "length") == 4.25
    for text in ("Final Score: 1", "Final Score: 4.", "a cat sits"):
        with pytest.raises(Rejected, match="cut off"):
            labelled(text, "Final Score", "length")


words = st.text(st.characters(exclude_characters="<>:=\uff1a"), max_size=60).filter(lambda t: "final" not in t.lower())


@settings(max_examples=400, deadline=None)
@given(words, words, st.decimals(1, 5, places=3), st.sampled_from(["Final Score:", "final score (1-5) :", "**Final Score**: "]))
def test_a_score_is_found_among_noise(before, after, value, label):
    assert labelled(f"{before}\n{label} {value}\n{after}", "Final Score") == float(value)


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="Final Score:15-/. \n3,0e(x)*", max_size=80), st.sampled_from(["stop", "length"]))
def test_no_answer_gives_a_score_that_is_none(text, finish):
    try:
        value = labelled(f"Final Score: {text}", "Final Score", finish)
    except Rejected:
        return
    assert 1 <= value <= 5 and any(float(n) == value for n in numbers(text))


def numbers(text):
    """Every run of digits and dots in a text, without a dot at an end, read by hand."""
    runs = "".join(c if c in "0123456789." else " " for c in text).split()
    return [run.strip(".") for run in runs if run.strip(".").count(".") <= 1 and run.strip(".")]
