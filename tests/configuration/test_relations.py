"""What checks refuse, and in which words."""

import pytest

from mvgrpo_jax import algorithms
from mvgrpo_jax.configuration import checks
from mvgrpo_jax.errors import UserError
from tests.configuration.edited import edited


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": -1}, "config.seed must be an integer from 0 to 18446744073709551615; got -1"),
        ({"seed": 2**64}, "got 18446744073709551616"),
        ({"seed": True}, "config.seed must be an integer .*; got True"),
        ({"ema.decay": float("nan")}, "config.ema.decay must be a finite number from 0 to below 1 .0: no average.; got nan"),
        ({"optimizer.learning_rate": float("inf")}, "got inf"),
        ({"views.enhancer": "vln"}, "must be one of none, embedded, vlm, offline; got 'vln'. Did you mean 'vlm'"),
        ({"lora.targets": ("(",)}, "config.lora.targets: .* is not PATTERN"),
        ({"lora.targets": ("a{99999999999999}",)}, "config.lora.targets: .* is not PATTERN"),
        ({"lora.rank": 4, "lora.targets": ()}, "config.lora.targets gives no layer a rank"),
        ({"lora.rank": 4, "lora.targets": ("a=0", "b=0")}, "config.lora.targets gives no layer a rank"),
        ({"mesh.data": -1, "mesh.fsdp": -1}, "only one size may be -1.*got data, fsdp"),
        ({"iterations": 5, "profile": "5:1"}, r"config.profile must begin below config.iterations \(5; .*; got '5:1'"),
        ({"profile": "5"}, "config.profile must be 'START:COUNT', so many iterations from START on, .*; got '5'"),
        ({"profile": "5:0"}, "config.profile must be 'START:COUNT'"),
        ({"profile": "-1:2"}, "config.profile must be 'START:COUNT'"),
        ({"profile": 5}, "config.profile must be 'START:COUNT'.*; got 5"),
        ({"train.minibatches": 3}, "minibatches must divide the prompts of an iteration .*= 16.; got 3, the nearest .* is 2"),
        ({"train.prompt_chunk": 5}, "prompt_chunk must divide the prompts of a minibatch .*= 16.; got 5, the nearest .* is 4"),
        ({"train.minibatches": 4, "train.prompt_chunk": 8}, "= 4.; got 8, the nearest below that does is 4"),
        ({"train.view_chunk": 2}, "view_chunk must divide all views .*= 11.; got 2"),  # 10 captions and the prompt
        ({"rewards.scene": 0.0}, "gives every judge the weight 0 .clip, scene.; raise one"),
        ({"rewards.scene": float("nan")}, "config.rewards.scene must be a finite number"),
        ({"rewards.scenes": 1.0}, "config.rewards.scenes: there is no such setting"),
        ({"judges.clip.chunk": 0}, "config.judges.clip.chunk must be an integer from 1"),
        ({"judges.clip.folders": "x"}, "config.judges.clip.folders: there is no such setting. Did you mean"),
        ({"eval.judge": "clop"}, "config.eval.judge 'clop' is not among config.rewards: clip, scene"),
        ({"optimizer.lerning_rate": 1.0}, "config.optimizer.lerning_rate: there is no such setting"),
        ({"optimizer": 3}, "config.optimizer.learning_rate is missing; start from configs/common.py"),
        ({"export.kind": "lora"}, "config.lora.rank is 0"),
        ({"views.missing": "offline"}, "config.views.missing=offline needs config.views.file"),
        ({"views.enhancer": "offline"}, "config.views.enhancer=offline needs config.views.file"),
        ({"views.perspectives": ("lightning",)}, "config.views.perspectives names 'lightning'"),
        ({"text.drop_encoders": True}, "config.text.drop_encoders needs a store"),
        ({"text.drop_encoders": True, "text.memory_mb": 1.0}, "looks at the pictures"),
        ({"views.service.attempt_s": 130.0}, "config.views.service: of a service, 0 < attempt_s <= request_s"),
        ({"views.service.endpoints": ("http://[::1",)}, "config.views.service: an endpoint is no URL"),
        ({"views.service.endpoints": ("http://host:port/v1",)}, "config.views.service: an endpoint is no URL"),
        ({"views.service.extra": '{"a": NaN}'}, "not valid JSON"),
        ({"views.service.extra": "[" * 4000}, "not valid JSON|must be a JSON object"),
        ({"sampling.steps": 10**9}, "config.sampling.steps must be an integer from 1 to 1000; got 1000000000"),
        ({"sampling.steps": 10**5000}, "got an integer of about 5000 digits"),
        ({"pipeline": "a\0b"}, "config.pipeline must be a text"),
        ({"algorithm.mvgrpo.trained_steps": ("a",)}, "trained_steps must be a tuple, of which each is an integer"),
        (
            {"algorithm.mvgrpo.kernel": "cps", "algorithm.mvgrpo.eta": 2.0},
            "eta is a share, 0 to 1, with the kernel cps; got 2.0",
        ),
        ({"algorithm.mvgrpo.clip": -1e-4}, "config.algorithm.mvgrpo.clip must be a finite number above 0 to 1000; got -0.0001"),
    ],
)
def test_what_is_refused_and_how(changes, message):
    with pytest.raises(UserError, match=message):
        checks.check(edited(changes))


@pytest.mark.parametrize(
    "name, own, message",
    [
        ("adagrpo", {"candidates": 0}, "candidates must be from 1 to 1000, got 0"),
        ("adagrpo", {"memory": 1.5}, "memory must be from 0 to 1, got 1.5"),
        ("branchgrpo", {"prune_every": 0}, "prune_every must be from 1"),
        ("branchgrpo", {"fans": (2**40, 2**40)}, "config.algorithm.branchgrpo.fans must be a tuple, of which each is"),
        ("branchgrpo", {"splits": (3, 1)}, "trained steps must ascend"),
        ("dancegrpo", {"fraction": 1.5}, "fraction must be from 0 to 1, got 1.5"),
        ("diffusion_nft", {"span": -1.0}, "span must be from 0 to 1, got -1.0"),
        ("flow_grpo", {"window": (1,)}, "window must be .start, stop., or empty for all steps; got .1,."),
        ("mixgrpo", {"dwell": 0}, "dwell must be from 1"),
        ("mixgrpo", {"solver": "heun"}, "unknown solver 'heun'"),
        ("pave_grpo", {"segments": (2, 10**6)}, "segments must be numbers of substeps of at least 2, and at most 64"),
        ("tempflow_grpo", {"kappa": -1.0}, "kappa must be from 0"),
        ("granular_grpo", {"strides": (0,)}, "strides must be positive"),
    ],
)
def test_an_algorithms_own_settings(name, own, message):
    changes = {"algorithm.name": name} | {f"algorithm.{name}.{k}": v for k, v in own.items()}
    with pytest.raises(UserError, match=message):
        checks.check(edited(changes))


@pytest.mark.parametrize("name", algorithms.names())
def test_one_step_is_understood_or_refused(name):
    """A grid of one step leaves most algorithms nothing to train."""
    try:
        checks.check(edited({"algorithm.name": name, "sampling.steps": 1, f"algorithm.{name}.trained_steps": ()}))
    except UserError as error:
        assert f"config for {name}" in str(error) or "no such setting" in str(error)


def test_traced_iterations_may_go_on_beyond_the_end():
    checks.check(edited({"iterations": 5, "profile": "4:9"}))
