"""Arguments of commands: what is refused, with which words, before any weight is read."""

import argparse

import pytest

from mvgrpo_jax import enhance, evaluate, sample
from mvgrpo_jax.configuration import flags

SEED = "expected an integer from 0 to 18446744073709551615, got "


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (flags.positive, "1", 1),
        (flags.natural, "0", 0),
        (flags.seed, "18446744073709551615", 2**64 - 1),
        (flags.finite, "-3.5", -3.5),
        (flags.level, "0", 0.0),
    ],
)
def test_values_that_are_taken(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    "kind, text, expected",
    [
        (flags.positive, "0", "expected an integer of at least 1, got 0"),
        (flags.positive, "1.5", "expected an integer of at least 1, got 1.5"),
        (flags.natural, "-1", "expected an integer of at least 0, got -1"),
        (flags.seed, "-1", SEED + "-1"),
        (flags.seed, "18446744073709551616", SEED + "18446744073709551616"),
        (flags.seed, "x", SEED + "x"),
        (flags.finite, "nan", "expected a finite number, got nan"),
        (flags.finite, "much", "expected a finite number, got much"),
        (flags.level, "-0.1", "expected a number of at least 0, got -0.1"),
        (flags.level, "inf", "expected a finite number, got inf"),
    ],
)
def test_values_that_are_refused(kind, text, expected):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        kind(text)
    assert str(error.value) == expected


PAINT = [
    ("--steps", "0"),
    ("--steps", "-3"),
    ("--guidance", "nan"),
    ("--guidance", "inf"),
    ("--seed", "-1"),
    ("--seed", str(2**64)),
]
SAMPLE = [
    ("--batch", "0"),
    ("--height", "0"),
    ("--width", "-16"),
    ("--eta", "nan"),
    ("--eta", "-1"),
    ("--max-sequence-length", "-5"),
    ("--max-sequence-length", "0"),
]
EVALUATE = [("--count", "0"), ("--first", "-1"), ("--seeds", "0"), ("--batch", "0")]


@pytest.mark.parametrize(
    "command, flag, value",
    [(sample, *pair) for pair in PAINT + SAMPLE] + [(evaluate, *pair) for pair in PAINT + EVALUATE],
)
def test_commands_refuse_before_they_load(command, flag, value, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--pipeline", "/nowhere", "--out", "/nowhere", f"{flag}={value}"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert f"argument {flag}: expected" in message and f"got {value}" in message


@pytest.mark.parametrize("seed", ["-1", str(2**64)])
def test_enhance_refuses_seeds_beyond_64_bits_before_it_writes(seed, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        enhance.main(["--out", str(tmp_path / "captions.jsonl"), "--count", "1", "--k", "1", f"--seed={seed}"])
    assert stop.value.code == 2 and not list(tmp_path.iterdir())
    assert f"argument --seed: {SEED}{seed}" in capsys.readouterr().err
