"""Files named in one text, and the training prompts of a config."""

import pytest
from ml_collections import ConfigDict

from configs import common, flux_nano
from mvgrpo_jax import prompts
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.nano.prompts import embedded_prompts
from mvgrpo_jax.prompts import Bounds, loading, sources
from mvgrpo_jax.prompts.sources import Source
from tests.prompts import made


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a.txt", [Source("a.txt")]),
        ("a.txt,b/c.json", [Source("a.txt"), Source("b/c.json")]),
        ("a.txt@3, b.json@0.5", [Source("a.txt", 3.0), Source("b.json", 0.5)]),
        ("a.txt@1e-2,flux-nano@1", [Source("a.txt", 0.01), Source("flux-nano", 1.0)]),
        ("me@home/a.txt", [Source("me@home/a.txt")]),
        ("me@home/a.txt@2", [Source("me@home/a.txt", 2.0)]),
    ],
)
def test_sources(text, expected):
    assert sources.parse(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a.txt@3,b.txt", "b.txt has no weight and others have; write b.txt@WEIGHT"),
        ("a.txt,", "found an empty name"),
        ("a.txt,a.txt", "a.txt is named twice"),
        ("a.txt@0,b.txt@1", "the weight of a.txt must be a positive number, got '0'"),
        ("a.txt@-1,b.txt@1", "positive number, got '-1'"),
        ("a.txt@nan,b.txt@1", "positive number, got 'nan'"),
        ("a.txt@inf,b.txt@1", "positive number, got 'inf'"),
        ("a.txt@x,b.txt@1", "positive number, got 'x'"),
        ("a.txt@,b.txt@1", "positive number, got ''"),
    ],
)
def test_sources_that_mean_nothing(text, expected):
    with pytest.raises(UserError, match=expected):
        sources.parse(text)


def test_a_mixture_may_be_longer_than_a_files_name():
    names = [f"{'x' * 60}{i}.txt" for i in range(8)]
    assert sources.parse(",".join(f"{name}@1" for name in names)) == [Source(name, 1.0) for name in names]


def test_what_exists_is_one_source(tmp_path):
    path = made.lines(tmp_path / "a,b@3", 2)
    assert sources.parse(str(path)) == [Source(str(path))]
    assert prompts.load_prompts(str(path), 0, held_out=False) == ["a made-up line, 0", "a made-up line, 1"]


def test_joined_files_keep_repeats_where_they_are_evaluated(tmp_path):
    a, b = made.write(tmp_path / "a.txt", "x\ny\nx\n"), made.write(tmp_path / "b.txt", "X\nz\n")
    assert prompts.load_prompts(f"{a},{b}", 0, held_out=True) == ["x", "y", "x", "X", "z"]
    assert prompts.load_prompts(f"{a},{b}", 1, held_out=True) == ["x", "X"]
    with pytest.raises(UserError, match="weights say how often training draws from a file; leave them out here"):
        prompts.load_prompts(f"{a}@1,{b}@2", 0, held_out=True)


def test_training_prompts_of_several_files(tmp_path):
    a, b = made.write(tmp_path / "a.txt", "x\ny\nx\n"), made.write(tmp_path / "b.txt", "X\nz\nlonger\n")
    corpus = prompts.load_corpus(f"{a},{b}", bounds=Bounds(max_length=5))
    assert corpus.texts == ["x", "y", "z"] and corpus.shares == ()
    assert corpus.describe() == (
        f"prompts: 2 of {a}, 1 of {b}; dropped: 1 repeats of an earlier prompt, "
        "1 equal to an earlier prompt but for case or white space, 1 longer than 5 characters"
    )
    mixture = prompts.load_corpus(f"{b}@1,{a}@3", bounds=Bounds(max_length=5))
    assert mixture.texts == ["X", "z", "y"] and mixture.shares == ((2, 1.0), (1, 3.0))
    assert f"2 of {b} (25.0% of the draws), 1 of {a} (75.0% of the draws)" in mixture.describe()
    assert prompts.load_corpus(f"{a},{b}", 1).texts == ["x", "z"]  # of each, after what is dropped
    assert prompts.load_corpus(f"{a}@7").shares == ()


def test_the_embedded_world_is_a_source_too(tmp_path):
    a = made.write(tmp_path / "a.txt", "x\ny\n")
    corpus = prompts.load_corpus(f"flux-nano-one@1,{a}@1", 2)
    assert corpus.texts == [*embedded_prompts(2, held_out=False, things=1), "x", "y"]


@pytest.mark.parametrize("config", [common.get_config(), flux_nano.get_config()])
def test_the_embedded_prompts_have_no_repeats(config):
    """So that the runs of the project draw what they drew before repeats were dropped."""
    c = config.prompts
    corpus = loading.of_config(c)
    assert corpus.texts == prompts.load_prompts(c.train, c.train_count, held_out=False) and not corpus.selection.dropped


def test_every_key_counts(tmp_path):
    path = made.write(tmp_path / "ocr.txt", 'say "x"\nSAY "x"\na long long line\nb\nbad word\n')
    block = made.write(tmp_path / "block.txt", "bad\n")
    base = {"train": str(path), "train_count": 0, "kind": "", "dedup": True, "min_length": 0, "max_length": 0, "blocklist": ""}

    def texts(**changes):
        return loading.of_config(ConfigDict(base | changes)).texts

    assert texts() == ['say "x"', "a long long line", "b", "bad word"]
    assert len(texts(dedup=False)) == 5 and texts(train_count=1) == ['say "x"']
    assert texts(min_length=2) == ['say "x"', "a long long line", "bad word"] and texts(max_length=1) == ["b"]
    assert texts(blocklist=str(block)) == ['say "x"', "a long long line", "b"]
    assert loading.of_config(ConfigDict(base)).parts[0].file.kind == "ocr"
    assert loading.of_config(ConfigDict(base | {"kind": "lines"})).parts[0].file.kind == "lines"


def test_nothing_left_says_why(tmp_path):
    path = made.write(tmp_path / "a.txt", "x\nX\n")
    expected = "none of 2 is left; dropped: 1 shorter than 2 characters, 1 equal to an earlier .*Widen the bounds"
    with pytest.raises(UserError, match=expected):
        prompts.load_corpus(str(path), bounds=Bounds(min_length=2))
    with pytest.raises(UserError, match="b.txt: none of 1 is left"):
        prompts.load_corpus(f"{path},{made.write(tmp_path / 'b.txt', 'x')}")
    with pytest.raises(UserError, match=r"must be at least 0 \(0: all\), got -1"):
        prompts.load_corpus(str(path), -1)


def test_too_few_are_told_with_what_was_dropped(tmp_path):
    corpus = prompts.load_corpus(str(made.write(tmp_path / "a.txt", "x\n" * 10_000)))
    with pytest.raises(UserError, match="only 1 training prompts; .*dropped: 9999 repeats of an earlier prompt"):
        corpus.check(8)
