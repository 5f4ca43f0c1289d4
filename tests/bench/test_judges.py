"""The judges' benchmark: both sides give one score, rates and ratios are right, and what differs is not timed."""

import pytest

from bench import judges
from mvgrpo_jax.errors import UserError
from tests.rewards import hpsv3_peer
from tests.rewards import judges as cases

IMAGES = judges.pictures_of(3, 64)


@pytest.fixture
def small(monkeypatch):
    """The sizes of the judges' own tests instead of the benchmark's."""
    monkeypatch.setitem(judges.LARGE, "open", cases.OPEN["exact"])
    monkeypatch.setitem(judges.LARGE, "hugging", cases.HUGGING["quick"])
    monkeypatch.setitem(judges.LARGE, "blip", cases.BLIP["quick"])
    monkeypatch.setitem(judges.LARGE, "hpsv3", hpsv3_peer.VARIANTS["grouped"])


@pytest.mark.parametrize(
    "kind", ["clip", *(pytest.param(k, marks=pytest.mark.nightly) for k in ("imagereward", "pickscore", "hpsv2"))]
)
def test_a_row(small, tmp_path, kind):
    before = dict(cases.OPEN), dict(cases.HUGGING), dict(cases.BLIP)
    pair = judges.of_case(kind, tmp_path)
    assert (dict(cases.OPEN), dict(cases.HUGGING), dict(cases.BLIP)) == before
    row = judges.measure(kind, pair, IMAGES, 2, rounds=2, most=60.0)
    assert row["difference"]["ours"] < 1e-4 and set(row["ratios"]) == {"torch"} and row["rounds"] == 2
    one, three = (pair.operations(IMAGES, judges.texts_of(n)) for n in (1, 3))
    if kind == "clip":  # a text costs the text tower alone
        assert row["operations"] - one == (three - one) / 2 > 0


@pytest.mark.nightly
def test_hpsv3_shares_what_captions_have_in_common(small, tmp_path):
    pair = judges.of_hpsv3(tmp_path, chunk=2)
    row = judges.measure("hpsv3", pair, IMAGES[:2], 2, rounds=1, most=60.0)
    assert set(row["ratios"]) == {"torch", "ours, nothing shared"} and max(row["difference"].values()) < 1e-4
    one = pair.operations(IMAGES[:2], judges.texts_of(1))
    assert one < row["operations"] < 1.3 * one  # a further text is far from a further picture


def test_scores_that_differ_are_not_timed(small, tmp_path):
    pair = judges.of_case("clip", tmp_path)
    theirs = pair.theirs
    pair.theirs = lambda pictures, texts: theirs(pictures, texts[::-1])
    with pytest.raises(UserError, match="clip: scores differ from the original's by"):
        judges.measure("clip", pair, IMAGES, 2, rounds=1, most=60.0)


def test_a_line_of_the_table():
    row = {"texts": 13, "pictures": 8, "operations": 4 * 10**9, "product": 10**10, "others": 0.25}
    row |= {"seconds": {"ours": 2.0, "torch": 8.0, "product, jax": 1.0}, "ratios": {"torch": 4.0, "ours, nothing shared": 3.0}}
    assert judges.line("hpsv3", row) == ("hpsv3", 13, 4.0, 1.0, 4.0, 3.0, 2.0, "20%", "25%")
