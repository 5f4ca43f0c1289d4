"""Judges elsewhere in a config: their settings are those of the captioner's service, in type, range and default."""

import pytest

from configs import common
from mvgrpo_jax import rewards
from mvgrpo_jax.configuration import arguments, checks
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import kinds, scoring
from mvgrpo_jax.services import Access, Settings

REMOTE = {"unifiedreward": {}, "vlm": {"model": "m"}, "http": {}}
SERVICE = "views.service."


def overridden(*words):
    """The config of common.py with a judge 'far' and these overrides."""
    config = common.get_config()
    for word in ("rewards.far=1.0", *words):
        arguments.override(config, *word.split("=", 1))
    return config


@pytest.mark.parametrize("kind", REMOTE)
def test_settings_are_the_captioners(kind):
    own, given = common.get_config().views.service, kinds.defaults(kind)
    shared = {name for name in own if name in given}
    assert shared >= {"endpoints", "concurrency", "attempt_s", "retries", "hedge", "breaker", "response_kb"}
    assert "temperature" not in given  # a judge has none
    captioners = checks.required()
    for name in shared:
        assert kinds.rules(kind)[name] == captioners[SERVICE + name]
    different = {"endpoints", "concurrency", "model", "max_tokens"}
    assert all(given[name] == own[name] for name in shared - different)


@pytest.mark.parametrize("kind", REMOTE)
def test_a_judge_is_made_of_what_a_config_says(kind):
    more = [f"judges.far.{key}={value}" for key, value in REMOTE[kind].items()]
    urls = "('http://127.0.0.1:1/v1', 'http://127.0.0.1:2/v1')"
    config = overridden(f"judges.far.kind={kind}", f"judges.far.endpoints={urls}", "judges.far.retries=7", *more)
    checks.check(config)
    judge = rewards.make("far", config.judges.far.to_dict())
    settings = judge.settings
    assert settings.endpoints == ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1") and settings.retries == 7
    assert settings.hedge == Access.hedge and getattr(settings, "temperature", 0.0) == 0.0
    assert settings.shared(4).concurrency == max(settings.concurrency // 4, 1)
    judge.close()  # nothing was asked


@pytest.mark.parametrize(
    "words, said",
    [
        (["judges.far.retries=-1"], "judges.far.retries"),
        (["judges.far.endpoints=http://x/v1"], "judges.far.endpoints"),
        (["judges.far.hedge='often'"], "judges.far.hedge"),
        (["judges.far.temperature=1.0"], "judges.far.temperature"),
        (["judges.far.use=beauty"], "one of mean, alignment, coherence, style"),
    ],
)
def test_what_a_config_must_not_say(words, said):
    with pytest.raises(UserError, match=said):
        checks.check(overridden("judges.far.kind=unifiedreward", *words))


def test_what_fits_no_service():
    for options, said in (
        ({"attempt_s": 9.0, "request_s": 1.0}, "attempt_s <= request_s <= batch_s"),
        ({"endpoints": ("http://u:p@x/v1",)}, "must not carry credentials"),
        ({"extra": "{"}, "not valid JSON"),
    ):
        with pytest.raises(UserError, match=said):
            rewards.make("far", {"kind": "unifiedreward"} | options)
    with pytest.raises(UserError, match="the judge 'vlm' of kind 'vlm' needs model"):
        rewards.make("vlm")
    with pytest.raises(TypeError, match="retires"):
        rewards.make("far", {"kind": "http", "retires": 3})


def test_an_address_is_the_place_of_the_score_command():
    judges = scoring.make_judges(["unifiedreward=http://127.0.0.1:1/v1,http://127.0.0.1:2/v1", "http=http://127.0.0.1:3"])
    assert judges["unifiedreward"].settings.endpoints == ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")
    assert judges["http"].settings.endpoints == ("http://127.0.0.1:3",)
    assert isinstance(judges["unifiedreward"].settings, Settings)
