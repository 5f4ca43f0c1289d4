"""MaxDiffusion's training step of Flux with abstract arrays, from a copy of their repository.

Their step is a function at the end of a module that imports what reads data, writes logs and stores checkpoints. It is taken
from its file by name, unchanged, and run on their own network and scheduler; of what these import, packages of that kind are
stood in for.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mvgrpo_jax.errors import UserError

# Of data, logs and storage; the step computes nothing with them.
ASIDE = ("google.cloud", "google_cloud_mldiagnostics", "tensorboardX", "datasets", "imageio", "librosa", "sentencepiece")
# Networks of older releases of transformers, of which the text encoders are made; the step does not encode.
FLAX = ("FlaxCLIPTextModel", "FlaxCLIPTextPreTrainedModel", "FlaxT5EncoderModel", "FlaxPreTrainedModel")
NEEDED = ("einops", "aqt", "qwix", "tokamax", "chex", "toolz")
AXES = ("data", "fsdp", "context", "tensor")
# configs/base_flux_dev.yml's
RULES = (
    ("batch", ("data", "fsdp")),
    ("activation_batch", ("data", "fsdp")),
    ("activation_heads", "tensor"),
    ("activation_length", "context"),
    ("activation_kv_length", "context"),
    ("activation_kv", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("conv_batch", ("data", "fsdp")),
    ("out_channels", "tensor"),
    ("conv_out", "fsdp"),
)


class Step(NamedTuple):
    """A jitted function and its abstract arguments, to be traced and lowered inside `with entered():`."""

    function: object
    arguments: tuple
    entered: Callable


class _StandIn(types.ModuleType):
    """A package that is imported and not used: every name in it is an empty class."""

    __path__: list = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Aside(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if any(name == part or name.startswith(f"{part}.") for part in ASIDE):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _StandIn(spec.name)

    def exec_module(self, module) -> None:
        pass


def load(repository: Path) -> None:
    """Makes their packages importable. UserError: no such repository, or a package that the network needs is not installed."""
    if not (repository / "src" / "maxdiffusion" / "trainers" / "flux_trainer.py").is_file():
        raise UserError(
            f"--repository {repository}: expected a copy of github.com/AI-Hypercomputer/maxdiffusion with its folder src; "
            "clone it"
        )
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"MaxDiffusion's network imports {', '.join(missing)}, not installed here; into a folder of their own: pip install "
            f"--no-deps --target DIR {' '.join(missing).replace('aqt', 'aqtp')}, and PYTHONPATH=DIR before this command"
        )
    sys.path.insert(0, str(repository / "src"))
    import transformers

    for name in FLAX:
        if not hasattr(transformers, name):
            setattr(transformers, name, type(name, (), {}))
    sys.meta_path.insert(0, _Aside())  # the first to be asked: google.cloud is there, and empty, with other packages


def version(repository: Path) -> str:
    """The commit of a clone; of a copy without its history, what its __init__.py says."""
    told = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True)
    if told.returncode == 0:
        return told.stdout.strip()
    lines = (repository / "src" / "maxdiffusion" / "__init__.py").read_text().splitlines()
    return next((line for line in lines if line.startswith("__version__")), "unknown")


def train_step(repository: Path):
    """Their function of that name."""
    import jax
    import jax.numpy as jnp

    path = repository / "src" / "maxdiffusion" / "trainers" / "flux_trainer.py"
    (node,) = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef) and n.name == "_train_step"]
    known = {"jax": jax, "jnp": jnp, "FLUX_STATE_KEY": "flux_state"}
    exec(compile(ast.Module([node], []), str(path), "exec"), known)
    return known["_train_step"]


def step(repository: Path, devices: list, *, blocks, pixels: int, text: int, attention: str, remat: str = "FULL") -> Step:
    """Their training step on a mesh that shards weights over all devices (fsdp), a sample a device. blocks: of two streams and
    of one. attention: dot_product | flash | cudnn_flash_te; remat: a name of their GradientCheckpointType. Weights and Adam's
    moments are float32, arithmetic bfloat16."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax.linen import partitioning
    from flax.training.train_state import TrainState
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P
    from maxdiffusion.models.flux.transformers.transformer_flux_flax import FluxTransformer2DModel
    from maxdiffusion.schedulers.scheduling_euler_discrete_flax import FlaxEulerDiscreteScheduler

    count = len(devices)
    mesh = Mesh(np.asarray(devices).reshape(1, count, 1, 1), AXES)
    network = FluxTransformer2DModel(
        num_layers=blocks[0],
        num_single_layers=blocks[1],
        guidance_embeds=True,
        mesh=mesh,
        attention_kernel=attention,
        dtype=jnp.bfloat16,
        weights_dtype=jnp.float32,
        remat_policy=remat,
    )
    scheduler = FlaxEulerDiscreteScheduler(dtype=jnp.float32)
    times = scheduler.set_timesteps(scheduler.create_state(), num_inference_steps=50, timestep_spacing="flux")
    pipeline = types.SimpleNamespace(flux=network, scheduler=scheduler)

    @contextlib.contextmanager
    def entered():
        with mesh, partitioning.axis_rules(RULES):
            yield

    with entered():
        boxed = network.init_weights(rngs=jax.random.key(0), max_sequence_length=text, eval_only=True)
        optimizer = optax.adamw(1e-5)

        def create(params) -> TrainState:
            return TrainState.create(apply_fn=network.apply, params=params, tx=optimizer)

        annotated = jax.eval_shape(create, boxed)
        places = nn.logical_to_mesh_sharding(nn.get_partition_spec(annotated), mesh, RULES)
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), nn.meta.unbox(annotated), places
    )
    side, of_batch = pixels // 16, NamedSharding(mesh, P(AXES))
    shapes = {"pixel_values": (side**2, 64), "img_ids": (side**2, 3), "text_embeds": (text, 4096), "input_ids": (text, 3)}
    shapes |= {"prompt_embeds": (768,)}
    batch = {n: jax.ShapeDtypeStruct((count, *s), jnp.bfloat16, sharding=of_batch) for n, s in shapes.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, P()))
    theirs, guidance = train_step(repository), np.full((count,), 3.5, jnp.bfloat16)

    def run(state, batch, key):
        return theirs(state, batch, key, guidance_vec=guidance, pipeline=pipeline, scheduler=times, config=None)

    function = jax.jit(run, out_shardings=(places, None, None), donate_argnums=(0, 1))
    return Step(function, (state, batch, key), entered)
