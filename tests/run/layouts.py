"""The settings under which a whole run is compared between one process and several: tiny, two iterations, four prompts or more.

Adam's epsilon lies above every gradient here, and what is added to a group's deviation above every rounding of a reward: steps
are in proportion to gradients, advantages to differences, and rounding stays rounding. Of three candidates one is nearest to
their mean, of two rounding would choose. Each setting but the first leaves the evaluation out.
"""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mvgrpo_jax.configuration import continuation
from mvgrpo_jax.nano.prompts import embedded_prompts
from mvgrpo_jax.run import iteration, loop
from tests.runs import small_config

# Name -> what it changes. {inputs}: the folder that `write_inputs` filled; {url}: of the caption service; {workdir}: the run's.
SETTINGS = {
    "captions of a service": {
        "views.enhancer": "vlm",
        "views.service": {"endpoints": ("{url}",), "model": "m", "concurrency": 8},
        "views.image.size": 16,
        "mesh": {"data": 2, "fsdp": 2},
        "eval.every": 2,
    },
    "branches": {
        "views.enhancer": "vlm",
        "views.service": {"endpoints": ("{url}",), "model": "m", "concurrency": 8},
        "views.image.size": 16,
        "train": {"by_branch": True, "view_chunk": 1},
    },
    "captions of a file": {
        "views.enhancer": "offline",
        "views.file": "{inputs}/captions.jsonl",
        "text": {"memory_mb": 64.0, "folder": "{workdir}/texts", "drop_encoders": True},
    },
    "adapters": {
        "lora": {
            "rank": 2,
            "alpha": 4.0,
            "start": "{inputs}/adapters.safetensors",
            "targets": (r"transformer_blocks\.attn\.to_[qkv]",),
        },
        "algorithm.mvgrpo.kl": 0.01,
    },
    "chosen prompts": {"algorithm.name": "adagrpo", "algorithm.adagrpo": {"candidates": 3, "trained_steps": (0, 1)}},
    "tree": {"algorithm.name": "branchgrpo", "algorithm.branchgrpo": {"splits": (0,), "fans": (3,)}},
    "passes": {
        "prompts_per_iteration": 8,
        "prompts.train": "flux-nano-one@3,flux-nano@1",
        "train": {"passes": 2, "minibatches": 2, "view_chunk": 1},
        "algorithm.mvgrpo.clip": 1e-3,
        "checkpoint.every": 1,
    },
    "bfloat16": {"train": {"dtype": "bfloat16", "param_dtype": "bfloat16", "frozen_dtype": "bfloat16"}},
}
SETTINGS["resumed"] = SETTINGS["passes"]


def write_inputs(folder: Path) -> None:
    """Captions of the training prompts, and adapters to start from."""
    prompts = embedded_prompts(128, held_out=False, things=1)
    lines = [{"prompt": p, "captions": [{"text": f"{p}, {how}"} for how in ("large", "small", "center")]} for p in prompts]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rng = np.random.default_rng(0)
    factors = {}
    for block, layer in np.ndindex(2, 3):
        name = f"transformer.transformer_blocks.{block}.attn.to_{'qkv'[layer]}"
        factors[f"{name}.lora_A.weight"] = rng.normal(0.0, 0.1, (2, 128)).astype(np.float32)
        factors[f"{name}.lora_B.weight"] = rng.normal(0.0, 0.1, (128, 2)).astype(np.float32)
    save_file(factors, folder / "adapters.safetensors")


def config_of(name: str, workdir: Path, inputs: str, url: str):
    """The config of a setting, on a mesh of four devices."""
    config = small_config(iterations=2, prompts_per_iteration=4)
    config.mesh.fsdp, config.eval.every = 4, 0
    config.optimizer.update({"learning_rate": 1e-2, "eps": 1e-4, "warmup": 0})
    config.export.dtype, config.log.images_every = "float32", 0

    def filled(value):
        if isinstance(value, tuple):
            return tuple(filled(each) for each in value)
        return value.format(inputs=inputs, url=url, workdir=workdir) if isinstance(value, str) else value

    for key, value in continuation.flatten(SETTINGS[name]).items():
        config.update_from_flattened_dict({key: filled(value)})
    config.algorithm[config.algorithm.name].std_floor = 0.05
    return config


def run(name: str, folder: str | Path, inputs: str, url: str) -> None:
    """The run of a setting, in a folder of its own there; beside it, in NAME.pictures, the bytes that judges see."""
    workdir, original = Path(folder) / name, iteration.judge
    pictures = workdir.with_suffix(".pictures")
    pictures.mkdir(parents=True, exist_ok=True)

    def judge(run, number, samples, *more):
        for branch, owned in enumerate(samples.pictures):
            for (prompt, sample), image in owned.mine.items():
                np.save(pictures / f"{number}-{branch}-{prompt}-{sample}.npy", image)
        return original(run, number, samples, *more)

    iteration.judge = judge
    try:
        loop.train(config_of(name, workdir, inputs, url), workdir)
    finally:
        iteration.judge = original


def die(name: str, folder: str, inputs: str, url: str) -> None:
    """Kills this process in the second iteration, after the rollout, with one checkpoint there."""
    original = iteration.update

    def update(run, state, batch, number):
        if number == 1:
            while not (Path(folder) / name / "checkpoints" / "1").exists():
                time.sleep(0.05)
            print("kills itself", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(run, state, batch, number)

    iteration.update = update
    run(name, folder, inputs, url)
