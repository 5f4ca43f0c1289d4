"""The command line's part of a config, and the order in which the training command goes about it."""

import pytest
from absl.testing import flagsaver

from configs import flux_nano
from mvgrpo_jax import main
from mvgrpo_jax.configuration import arguments, checks
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import loop

CONFIG = "configs/flux_nano.py"


def overridden(word):
    config = flux_nano.get_config()
    key, _, text = word.partition("=")
    arguments.override(config, key, text)
    return arguments.keys(config)[key]


@pytest.mark.parametrize(
    "word, value",
    [
        ("iterations=1_000", 1000),
        ("iterations=1e3", 1000),
        ("iterations=1e18", 10**18),
        ("optimizer.learning_rate=3", 3.0),
        ("views.overlap=No", False),
        ("views.overlap=T", True),
        ("views.file=", ""),
        ("views.file=a=b", "a=b"),
        ("views.perspectives=", ()),
        ("views.perspectives='lighting'", ("lighting",)),
        ("views.perspectives=['lighting', 'mood']", ("lighting", "mood")),
        ("algorithm.mvgrpo.trained_steps=0,2", (0, 2)),
        ("algorithm.mvgrpo.trained_steps=1", (1,)),
        (r"lora.targets=('a\.b',)", (r"a\.b",)),
        ("rewards.clip=2", 2.0),
        ("judges.clip.chunk=8", 8),
        ("judges.clip.folder=/data/clip", "/data/clip"),
    ],
)
def test_what_a_text_means(word, value, recwarn):
    got = overridden(word)
    assert got == value and type(got) is type(value) and not recwarn.list


@pytest.mark.parametrize(
    "word, message",
    [
        ("iterations=", "--config.iterations=: expected int .default 60."),
        ("iterations=1.5", "expected int"),
        ("iterations=1e1000000000", "expected int"),
        ("iterations=" + "9" * 5000, "expected int"),
        ("optimizer.learning_rate=nan", r"--config.optimizer.learning_rate=nan: expected a finite number \(float\)"),
        ("optimizer.learning_rate=1e999", "expected a finite number"),
        ("rewards.clip=inf", "expected a finite number"),
        ("views.overlap=maybe", "expected bool .default True."),
        ("views.perspectives=lighting", r"--config.views.perspectives=lighting: expected a tuple such as \('a', 'b'\)"),
        ("views.perspectives={'a': 1}", "expected a tuple"),
        ("views.perspectives=(1,", "expected a tuple"),
        ("views.perspectives=" + "(" * 9000, "expected a tuple"),
        ("lora.targets=a\0b", "expected a tuple"),
        ("rewards=2", "unknown config key 'rewards'. Did you mean 'rewards.clip'"),
        ("rewards.clip.scale=2", "unknown config key 'rewards.clip.scale': clip is a value"),
        ("=2", "unknown config key ''"),
        ("seed.x=2", "unknown config key 'seed.x'"),
    ],
)
def test_what_a_text_does_not_mean(word, message):
    with pytest.raises(UserError, match=message):
        overridden(word)


def test_a_command_line_in_three():
    line = [
        "--config",
        "a.py",
        "--workdir=w",
        "--config.seed=3",
        "--config.mesh.fsdp",
        "-1",
        "-config.pipeline=a b",
        "--dry_run",
    ]
    want = ["--config.seed=3", "--config.mesh.fsdp=-1", "--config.pipeline=a b"]
    assert arguments.split(line) == ("a.py", want, ["--workdir=w", "--dry_run"])
    for line in (["--config.mesh.fsdp"], ["--config.views.overlap", "--workdir=w"], ["--config"]):
        with pytest.raises(UserError, match=f"{line[0]}: expected {line[0]}=VALUE"):
            arguments.split(line)


@pytest.fixture
def called(monkeypatch):
    """What the training command calls, in order, with nothing of it done."""
    calls = []
    monkeypatch.setattr(loop, "train", lambda config, workdir: calls.append(("train", config.seed, workdir)))
    monkeypatch.setattr(loop, "dry_run", lambda config: calls.append(("dry_run", config.seed)), raising=False)
    return calls


def command(*words, **flags):
    if not main.flags.FLAGS.is_parsed():
        main.flags.FLAGS(["main"])
    path, words, rest = arguments.split([f"--config={CONFIG}", *words])
    with flagsaver.flagsaver(**flags):
        main.run(path, words, ["main", *rest])


def test_the_config_is_printed_sorted_and_nothing_runs(called, capsys):
    command("--config.seed=5", "--config.views.perspectives=('color',)", print_config=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines == sorted(lines) and not called
    assert "seed = 5" in lines and "views.perspectives = ('color',)" in lines and "pipeline = 'flux-nano'" in lines
    assert len(lines) == len(arguments.keys(flux_nano.get_config()))


def test_the_order_of_the_training_command(called, capsys):
    command("--config.seed=5", dry_run=True)
    command("--config.seed=6", workdir="somewhere")
    assert called == [("dry_run", 5), ("train", 6, "somewhere")]
    for words, flags, message in (
        ([], {}, "no workdir: give --workdir=DIR"),
        (["more"], {"workdir": "w"}, "unknown argument 'more'"),
        (["--config.train.passes=0"], {"print_config": True}, "config.train.passes must be an integer from 1 to 1000; got 0"),
        (["--config.train.passes=0"], {"dry_run": True}, "config.train.passes must be"),
        (["--config.train.passes=0"], {"workdir": "w"}, "config.train.passes must be"),
    ):
        with pytest.raises(SystemExit) as end:
            command(*words, **flags)
        assert end.value.code == 2 and message in capsys.readouterr().err
    assert len(called) == 2


def test_a_trained_config_can_get_no_new_keys(monkeypatch):
    monkeypatch.setattr(loop, "train", lambda config, workdir: setattr(config, "new", 1))
    with pytest.raises(AttributeError, match="new"):
        command(workdir="w")


def test_a_config_file_with_a_mistake_is_refused_with_its_key(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import flux_nano\ndef get_config():\n  c = flux_nano.get_config()\n  c.lerning_rate = 1\n  return c\n"
    )
    with pytest.raises(UserError, match="config.lerning_rate: there is no such setting"):
        arguments.from_arguments(str(path), [])
    assert checks.check(arguments.load(CONFIG)) is None


def test_the_config_of_a_run_is_a_config(tmp_path):
    """What its workdir keeps, with tuples again and overrides in the type of what they replace."""
    config = arguments.load("configs/flux_nano.py")
    path = tmp_path / "config.json"
    path.write_text(config.to_json_best_effort())
    again = arguments.from_arguments(str(path), ["--config.algorithm.mvgrpo.trained_steps=(0, 1, 2)", "--config.seed=3"])
    assert again.algorithm.mvgrpo.trained_steps == (0, 1, 2) and again.seed == 3
    again.algorithm.mvgrpo.trained_steps, again.seed = config.algorithm.mvgrpo.trained_steps, config.seed
    assert again == config
