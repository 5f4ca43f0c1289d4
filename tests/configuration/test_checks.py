"""Checks of configs: every key has a rule, and whatever is written into one is understood or refused in words."""

import ast
import collections
import decimal
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import common
from mvgrpo_jax.configuration import arguments, checks, rules
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import kinds
from tests.configuration.edited import edited

ROOT = Path(__file__).parents[2]
CONFIG = "configs/flux_nano.py"
KEYS = arguments.keys(common.get_config())


def test_every_key_has_a_rule_that_its_default_follows():
    known = checks.required() | checks.optional(common.get_config())
    assert set(KEYS) <= set(known), f"keys without a rule: {set(KEYS) - set(known)}"
    assert set(checks.required()) <= set(KEYS), f"rules without a key: {set(checks.required()) - set(KEYS)}"
    for key, value in KEYS.items():
        assert known[key].accepts(value), f"{key} = {value!r} is not {known[key].expected}"


@pytest.mark.parametrize(
    "path", sorted(p for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__"), ids=lambda p: p.stem
)
def test_every_config_of_the_project_passes(path):
    checks.check(arguments.load(str(path)))


def test_the_checks_ask_for_no_device_and_no_file():
    code = (
        "from mvgrpo_jax.configuration import from_arguments\n"
        "for name in ('mvgrpo_flux', 'adagrpo_flux', 'branchgrpo_flux', 'mvgrpo_flux_lora', 'mvgrpo_flux_vlm'):\n"
        "    from_arguments(f'configs/{name}.py', ['--config.pipeline=/nowhere', '--config.views.file=/nowhere'])\n"
        "import jax\n"
        "try: jax.devices()\n"
        "except RuntimeError as error: print('no devices:', error)\n"
    )
    environment = {"PATH": "", "JAX_PLATFORMS": "nothing_that_exists", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "no devices:" in done.stdout, done.stderr


OFF = ("eval.every", "checkpoint.every", "log.images_every", "ema.decay", "lora.rank", "image.height", "train.view_chunk")
AT_LEAST_ONE = (
    *("train.passes", "train.minibatches", "prompts_per_iteration", "train.unroll", "checkpoint.keep", "ema.every"),
    *("sampling.steps", "eval.steps", "mesh.data", "mesh.fsdp", "mesh.tensor"),
)


def test_what_0_means():
    for key in OFF:
        checks.check(edited({key: 0 if isinstance(KEYS[key], int) else 0.0}))
        with pytest.raises(UserError, match=f"config.{key} must be .*; got -2"):
            checks.check(edited({key: -2}))
    for key in AT_LEAST_ONE:
        with pytest.raises(UserError, match=f"config.{key} must be an integer from 1 to .*; got 0"):
            checks.check(edited({key: 0}))
    with pytest.raises(UserError, match="config.group_size must be an integer from 2 to 4096; got 1"):
        checks.check(edited({"group_size": 1}))


def test_every_wrong_key_is_named_at_once():
    with pytest.raises(UserError) as error:
        checks.check(edited({"seed": -1, "train.passes": 0, "iterations": "many"}))
    assert [line.split()[0] for line in str(error.value).splitlines()] == [
        "config.iterations",
        "config.seed",
        "config.train.passes",
    ]


def test_a_key_in_the_place_of_its_name_is_not_repeated():
    for changes in (
        {"views.service.key_env": "sk-abc\n"},
        {"views.service.key_env": "sk-abc"},
        {"views.service.endpoints": ("http://me:sk-abc@host/v1",)},
        {"views.service.endpoints": "http://me:sk-abc@host/v1"},
        {"views.service.endpoints": ("http://me:sk-abc@host:port/v1",)},
    ):
        with pytest.raises(UserError, match="config.views.service") as error:
            checks.check(edited(changes))
        assert "sk-abc" not in str(error.value)


def test_a_rule_is_made_of_a_default_only_where_its_kind_is_known():
    assert rules.of_default((0.5,)).accepts((1.0, 2)) and not rules.of_default((0.5,)).accepts((math.nan,))
    with pytest.raises(TypeError, match="no rule for a default like None"):
        rules.of_default(None)


# --- whatever is written -------------------------------------------------------------------------------------------------

TEXTS = (
    *("", " ", "0", "-1", "1", "2", "7", "1_000", "1e3", "1e18", "1e999", "-1e999", "1E-400", "nan", "inf", "-inf", "Infinity"),
    *("0x10", "1.5", "-0.0", "0.5", ".5", "5.", "1j", "None", "True", "false", "yes", "maybe", "()", "(,)", "(1,", "(0, 1)"),
    *("(1, 'a')", "('a',)", "[0, 1]", "{0: 1}", "{1}", "'", "'a'", "lighting", "mvgrpo", "euler", "dpm2", "none", "full"),
    *("float32", "bfloat16", "float64", "clip", "scene", "(" * 5000, "-" * 5000 + "1", "9" * 30, "9" * 5000, "[" * 20000),
    *("a\0b", "\ud800", "١٢", "--config.seed=1", "__import__('os')", "1e1000000000", "(nan,)", "(1e999,)", "(True,)", "('(',)"),
    *(
        "18446744073709551615",
        "18446744073709551616",
        "2**64",
        "1,2",
        "/nowhere",
        "http://[::1",
        "{}",
        '{"a": NaN}',
        "a" * 5000,
    ),
)
VALUES = (
    *(0, -1, 1, 2, 3, 4, 5, 7, 1000, 1001, 2**63, 2**64 - 1, 2**64, 10**400, 10**5000, True, False, None),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 1e-300, 1e300, math.nan, math.inf, -math.inf, 1j, b"x", object(), int, "", "x", "a\0b"),
    *((), (0,), (1,), (0, 1), (1, 0), (2, 3), [0, 1], ("a",), ("(",), (None,), (math.nan,), (10**5000,), ((),), {}, {"a": 1}),
    *(set(), "mvgrpo", "euler", "dpm2", "none", "offline", "float32", "dance", "cps", "sum", "clip", ("lighting",), range(3)),
)
# What is demanded of accepted integers, said here once more.
LEAST = dict.fromkeys(AT_LEAST_ONE, 1) | {
    "group_size": 2,
    "mesh.data": -1,
    "mesh.fsdp": -1,
    "mesh.tensor": -1,
    "views.count": -1,
}
MOST = {"sampling.steps": 1000, "eval.steps": 1000, "group_size": 4096, "seed": 2**64 - 1, "iterations": 2**63 - 1}

texts = st.one_of(
    st.sampled_from(TEXTS), st.text(max_size=8), st.integers(-3, 40).map(str), st.integers().map(str), st.floats().map(repr)
)
values = st.one_of(
    st.sampled_from(VALUES), st.text(max_size=8), st.integers(-3, 40), st.integers(), st.floats(), st.floats(0.0, 1.0)
)


def finite(value) -> bool:
    parts = value if isinstance(value, (tuple, list)) else [value]
    return all(not isinstance(p, float) or math.isfinite(p) for p in parts)


def means(text, default, value) -> bool:
    """Whether a value is what a text says, read in another way than the code does."""
    if isinstance(default, bool):
        return value is (text.lower() in ("true", "t", "1", "yes"))
    if isinstance(default, int):
        return type(value) is int and decimal.Decimal(text) == value
    if isinstance(default, float):
        said = decimal.Decimal(text)
        return abs(said - decimal.Decimal(value)) <= abs(said) * decimal.Decimal("3e-16") + decimal.Decimal("1e-320")
    if isinstance(default, tuple):
        said = ast.literal_eval(text) if text.strip() else ()
        return value == (tuple(said) if isinstance(said, (tuple, list)) else (said,))
    return value == text


def sane(key, default, value) -> bool:
    """Right type, finite, and within the bounds."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int):
        return (
            type(value) is int
            and LEAST.get(key, 0) <= value <= MOST.get(key, 10**9)
            and (value != 0 or key not in ("mesh.data", "mesh.fsdp", "mesh.tensor"))
        )
    if isinstance(default, float):
        return isinstance(value, (int, float)) and -1e9 <= value <= 1e9
    kind = (tuple, list) if isinstance(default, tuple) else str
    return isinstance(value, kind) and finite(value) and (kind is not str or "\0" not in value)


def named(key, message) -> bool:
    """Whether a message says which setting is meant."""
    words = message.replace("_", " ")
    return key.split(".")[-1].replace("_", " ") in words or f"config for {key.split('.')[1]}" in message


@pytest.mark.nightly
def test_whatever_is_written_is_understood_or_refused():
    """1,000 overrides of the config's own keys, as text and as Python values: a sane meaning or a UserError, never another
    exception. An algorithm's own setting is tried with that algorithm chosen."""
    counts = collections.Counter()

    @settings(max_examples=1000, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(key=st.sampled_from(sorted(KEYS)), as_text=st.booleans(), data=st.data())
    def one(key, as_text, data):
        section, *rest = key.split(".")
        name = rest[0] if section == "algorithm" and len(rest) > 1 else "mvgrpo"
        default = arguments.keys(arguments.load(CONFIG))[key]
        value = data.draw(texts if as_text else values)
        try:
            if as_text:
                config = arguments.from_arguments(CONFIG, [f"--config.algorithm.name={name}", f"--config.{key}={value}"])
                got = arguments.keys(config)[key]
                assert means(value, default, got), f"{key}={value!r} became {got!r}"
            else:
                config = edited({"algorithm.name": name, key: value})
                checks.check(config)
                got = config
                for part in key.split("."):
                    got = got[part]
                assert type(got) is type(value) and got == value
        except UserError as error:
            counts["text refused" if as_text else "value refused"] += 1
            assert named(key, str(error)), f"{key}={value!r}: {error}"
            assert len(str(error)) < 2000
        else:
            assert sane(key, default, got), f"{key} = {got!r} was accepted"
            counts["text accepted" if as_text else "value accepted"] += 1

    one()
    print(dict(counts))
    accepted, refused = counts["text accepted"] + counts["value accepted"], counts["text refused"] + counts["value refused"]
    assert accepted + refused >= 1000 and accepted > 100 and refused > 100
    assert min(counts.values()) > 50 and len(counts) == 4


def test_judges_of_a_config_are_free_within_those_that_exist():
    config = arguments.from_arguments("configs/mvgrpo_flux.py", ["--config.rewards.scene=2", "--config.judges.clip.chunk=8"])
    assert config.rewards.to_dict() == {"clip": 1.0, "scene": 2.0} and config.judges.clip.chunk == 8
    assert isinstance(config.rewards, ConfigDict) and set(config.rewards) <= set(kinds.names())
    for word in (
        "rewards.beauty=1",
        "judges.beauty.scale=1",
        "rewards.clip=many",
        "rewards.clip.scale=1",
        "judges.clip=3",
        "rewards=1",
    ):
        with pytest.raises(UserError, match=word.partition("=")[0].split(".")[0]):
            arguments.from_arguments("configs/mvgrpo_flux.py", [f"--config.{word}"])
