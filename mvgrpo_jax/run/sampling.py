"""Pictures from a pipeline by ODE or SDE, outside of training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import lora as lora_files
from mvgrpo_jax.core import rollout, sde, seeds
from mvgrpo_jax.core.policy import Policy, assemble
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import lora
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.run import pictures, trained

BATCH = 16  # pictures at a time
COLUMNS = 8  # of the contact sheet
Texts = tuple[np.ndarray, np.ndarray]  # CLIP's and T5's token ids, int32 [N, S_clip] and [N, S_t5]


def load(folder: str | Path, dtype=jnp.float32, lora_path: Path | None = None, mesh=None, **options) -> pipelines.Pipeline:
    """A pipeline with weights of a dtype; the adapters of a LoRA file or folder, if given, are joined to its transformer.
    mesh, options: as of pipelines.load. UserError: a pipeline or LoRA that cannot be read, or adapters that do not fit the
    transformer."""
    pipeline = pipelines.load(folder, dtype=dtype, mesh=mesh, **options)
    if lora_path:
        factors = lora_files.read(lora_path, pipeline.transformer, pipeline.flux_config)
        adapters, config = lora_files.tree_of(pipeline.transformer, factors)
        pipeline.transformer = lora.adapt(pipeline.transformer, config)
        adapters = jax.device_put(adapters, rules.sharding(mesh)) if mesh else adapters
        pipeline.params["transformer"] = lora.join(pipeline.params["transformer"], adapters)
    return pipeline


def load_trained(
    workdir: Path, dtype=jnp.float32, *, step: int | None = None, best: bool = False, mesh=None
) -> pipelines.Pipeline:
    """The pipeline of a run with the weights of its newest checkpoint, of the checkpoint of an iteration, or its best ones, on
    a mesh, without one on one device. UserError when they are not there."""
    found = trained.read(workdir, mesh or make_mesh(), step=step, best=best, dtype=dtype)
    pipeline = found.programs.pipeline
    pipeline.transformer = found.programs.policy.network
    pipeline.params["transformer"] = assemble(found.weights, found.base)
    return pipeline


def sampler(pipeline: pipelines.Pipeline, policy: Policy, sigmas: np.ndarray, *, solver: str = "ode", eta: float = 0.7):
    """A jitted (params of all components, ids_clip, ids_t5, latents [N, L, C], keys [N]) -> pictures [N, H, W, 3] in [0, 1].
    keys: of each picture's own noise, which the SDE adds.

    UserError: an SDE over sigmas that rise.
    """
    if solver == "sde" and sigmas[0] < sigmas[-1]:
        raise UserError("--solver sde needs sigmas that fall; this pipeline's scheduler has invert_sigmas; take --solver ode")
    kernel = sde.kernel("flow")
    g = kernel.noise(sigmas, eta)
    grid = rollout.Grid(jnp.asarray(sigmas, jnp.float32), jnp.asarray(g, jnp.float32))

    @jax.jit
    def run(params, ids_clip, ids_t5, latents, keys):
        condition = pipelines.encode(pipeline, params, ids_clip, ids_t5, policy.dtype)

        def velocity(x, sigma):
            return policy.velocity(params["transformer"], x, sigma, condition)

        def noise(i, shape):
            return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape[1:]))(keys)

        source = noise if solver == "sde" else None
        x0 = rollout.walk(velocity, kernel, grid, latents[:, None], 0, len(g), np.arange(0), 0, source)[0]
        return pipelines.decode(pipeline, params["vae"], x0[:, 0], policy.grid, policy.dtype)

    return run


class Painter:
    """Paints texts with a pipeline at one picture size, by one solver. Texts of equal number share one compiled program.

    steps, guidance: of the solver. height, width: pixels, None for the pipeline's own. solver: 'ode' or 'sde', with noise
    level eta. dtype: of the networks' arithmetic. length: T5 tokens of a text, None for the tokenizer's. shape: (L, C) of a
    picture's packed latents. UserError: a size that does not divide, no sigmas for so many steps, or an SDE over sigmas that
    rise.
    """

    def __init__(
        self,
        pipeline: pipelines.Pipeline,
        *,
        steps: int,
        guidance: float = 3.5,
        height: int | None = None,
        width: int | None = None,
        solver: str = "ode",
        eta: float = 0.7,
        dtype=jnp.float32,
        length: int | None = None,
    ):
        grid = pipeline.grid(height or pipeline.default_size, width or pipeline.default_size)
        policy = Policy(pipeline.transformer, grid, guidance, dtype, time_scale=pipeline.scheduler.time_scale)
        self.pipeline, self.length = pipeline, length or pipelines.text_length(pipeline)
        self.shape = (policy.tokens, pipeline.flux_config.in_channels)
        self.run = sampler(pipeline, policy, pipeline.sigmas(steps, policy.tokens), solver=solver, eta=eta)

    def tokenize(self, prompts: list[str]) -> tuple[Texts, list[str]]:
        """The token ids of N prompts, and a warning for each that is cut."""
        ids_clip, ids_t5, warnings = pipelines.tokenize(self.pipeline, prompts, self.length)
        return (ids_clip, ids_t5), warnings

    def paint(
        self,
        texts: Texts,
        latents: np.ndarray,
        *,
        seed: int = 0,
        batch: int = BATCH,
        painted: Callable[[int], object] = lambda count: None,
    ) -> np.ndarray:
        """Pictures float32 [N, H, W, 3] in [0, 1] of N texts and initial latents [N, L, C], at most `batch` at a time.

        The last batch is padded by its last row, so that one program is compiled. seed: of the SDE's noise; picture i depends
        on (seed, i) alone, whatever the batch. painted(count): called after each batch. ValueError: seed not of 64 bits.
        """
        total = len(latents)
        size, batches = min(batch, total), []
        keys = jax.vmap(functools.partial(jax.random.fold_in, seeds.key(seed)))(jnp.arange(total))
        for first in range(0, total, size):
            rows = np.minimum(np.arange(first, first + size), total - 1)
            ids = (ids[rows] for ids in texts)
            images = self.run(self.pipeline.params, *ids, latents[rows], keys[rows])
            batches.append(np.asarray(images)[: total - first])
            painted(len(batches[-1]))
        return np.concatenate(batches)


def initial_latents(seed: int, first: int, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Noise [count, L, C]; picture i depends on (seed, i) alone, whatever the batch size. ValueError: seed not of 64 bits."""
    root = seeds.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.arange(first, first + count))
    return np.asarray(jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys))


def given_latents(path: Path, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Latents from a file. UserError unless they are [count, *shape] numbers."""
    try:
        latents = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"--latents {path}: not a readable .npy file ({error})") from None
    if latents.shape != (count, *shape) or not np.issubdtype(latents.dtype, np.floating):
        raise UserError(
            f"--latents {path}: expected floats of shape {[count, *shape]} (prompts, tokens, channels), "
            f"found {latents.dtype} {list(latents.shape)}"
        )
    return latents.astype(np.float32)


def save(images: np.ndarray, prompts: list[str], folder: Path, *, arrays: bool = False) -> None:
    """Writes pictures [N, H, W, 3] in [0, 1] as 0000.png, 0001.png, ..., and sheet.png, a contact sheet under their prompts.
    arrays: also images.npy, the pictures themselves."""
    for i, image in enumerate(images):
        pictures.save_png(image, folder / f"{i:04d}.png")
    columns = min(COLUMNS, len(images))
    cells = list(zip(images, prompts))
    pictures.sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], folder / "sheet.png", cell=128)
    if arrays:
        np.save(folder / "images.npy", images)
