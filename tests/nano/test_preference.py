"""nano-hps: what it prefers is what its utility says, and the command that made it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax import rewards
from mvgrpo_jax.convert.weights import import_params
from mvgrpo_jax.nano.pretrain import preference, stages, tokenizers
from mvgrpo_jax.nano.world import captions, quality, scene, score
from mvgrpo_jax.rewards.kinds.clip import EMBEDDED

RED = scene.Scene((scene.Thing("circle", "red", "large", "center"),), "white")


def test_utility_is_the_exact_score_and_half_the_quality():
    image = preference.render.draw(RED, np.random.default_rng(0))
    asked = captions.read("a large red circle center on a white background")
    assert preference.utility(image, asked) == pytest.approx(score.score(image, asked) + 0.5 * quality.quality(image))
    noisy = np.clip(image + np.random.default_rng(1).normal(0, 0.1, image.shape), 0, 1)
    assert preference.utility(noisy, asked) < preference.utility(image, asked)


def test_the_shipped_judge_ranks_as_its_utility_and_better_than_what_it_was_made_of():
    net = stages.networks(len(tokenizers.clip_tokenizer()), len(tokenizers.t5_tokenizer()))["clip"]
    rng = np.random.default_rng(101)
    texts, pairs, worth = zip(*(preference.drawn_pair(rng) for _ in range(200)))
    share = {
        name: preference.agreement(
            net, import_params(net, EMBEDDED[name], dtype=jnp.float32), list(texts), np.stack(pairs), np.stack(worth)
        )
        for name in EMBEDDED
    }
    assert share["nano-hps"] > 0.75 and share["nano-hps"] > share["clip-nano"] + 0.05, share


@pytest.mark.nightly
def test_the_command_writes_a_judge(tmp_path, capsys):
    preference.main(["--out", str(tmp_path), "--scale", "0.005"])
    rewards.make("clip", {"folder": str(tmp_path / "nano-hps")})
    told = json.loads((tmp_path / "agreement.json").read_text())
    assert told.keys() == {"clip-nano", "nano-hps"} and all(0 <= value <= 1 for value in told.values())
    assert "ranked as their utilities are" in capsys.readouterr().out
