"""Which weights paint: a pipeline's, with adapters or without, or a run's; what identifies them, and where they live."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import attention
from mvgrpo_jax.models.module import Network
from mvgrpo_jax.parallel import mesh as meshes
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.pipelines import hub
from mvgrpo_jax.pipelines.identity import identity
from mvgrpo_jax.planning import hardware
from mvgrpo_jax.run import checkpoint, sampling, trained

EXPORT = "pipeline"  # what a run calls the pipeline that it exports
PARTS = (*pipelines.WEIGHTS, "tokenizer", "tokenizer_2", "scheduler")  # folders of a pipeline


@dataclasses.dataclass(frozen=True)
class Weights:
    """pipeline: a folder, a name in the Hugging Face cache, or 'flux-nano'; of a run what it trained. lora: adapters' file or
    folder. workdir: of a run, whose weights of iteration `step` are meant, or its best ones."""

    pipeline: str
    lora: Path | None = None
    workdir: Path | None = None
    step: int | None = None
    best: bool = False

    @classmethod
    def of_run(cls, workdir: Path, step: int | None = None, best: bool = False) -> Weights:
        """Those of a run, the newest checkpoint's where no iteration is named. UserError when they are not there."""
        pipeline = read_json(workdir / "config.json")["pipeline"]
        trained.kept(workdir, step, best).close()
        found = checkpoint.steps(workdir / ("best" if best else "checkpoints"))[0] if step is None else step
        return cls(pipeline, workdir=workdir, step=found, best=best)

    @property
    def name(self) -> str:
        """What people call them."""
        if self.workdir:
            return f"{self.workdir.name}, {'best of ' if self.best else ''}iteration {self.step}"
        folder = Path(self.pipeline)
        name = folder.parent.name if folder.name == EXPORT else folder.name
        return name + (f" + {self.lora.stem}" if self.lora else "")

    def facts(self) -> dict[str, Any]:
        """What tells these weights from others, as JSON has it."""
        found = {"pipeline": self.pipeline, "weights": identity(hub.found(self.pipeline))}
        if self.lora:
            found |= {"lora": str(self.lora), "lora_sha256": _sha256(self.lora)}
        if self.workdir:
            found |= {"workdir": str(self.workdir), "step": self.step, "best": self.best}
        return found

    def described(self) -> pipelines.Pipeline:
        """The pipeline without its weights. UserError: it is none, or lacks a component."""
        folder = hub.found(self.pipeline)
        missing = [name for name in PARTS if not (Path(folder) / name).is_dir()]
        if (Path(folder) / "model_index.json").is_file() and missing:
            raise UserError(
                f"{self.pipeline} has no {', '.join(missing)}; expected a FluxPipeline with {', '.join(PARTS)}, as diffusers' "
                "save_pretrained writes it. Copy what is missing"
            )
        return pipelines.describe(folder)

    def load(self, dtype, mesh: Mesh) -> pipelines.Pipeline:
        """The pipeline with weights of a dtype on a mesh. UserError when they cannot be read."""
        if self.workdir:
            step = None if self.best else self.step
            return sampling.load_trained(self.workdir, dtype, step=step, best=self.best, mesh=mesh)
        kernel = attention.choose("auto", mesh.devices.flat[0].platform, dtype)
        return sampling.load(hub.found(self.pipeline), dtype, self.lora, mesh, attention=kernel)


def _sha256(path: Path) -> str:
    """Of a file, or of the safetensors files of a folder. UserError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    except OSError as error:
        raise UserError(f"--lora {path} cannot be read ({error.strerror}); give a LoRA file or a folder with one") from None
    return digest.hexdigest()


def local_mesh(networks: list[Network], dtype) -> Mesh:
    """A mesh of this process's own devices: each holds all parameters where they take at most half of its memory, else they are
    split over all that divide them. On CPUs one device."""
    groups = [jax.local_devices()]
    sizes = sum(math.prod(x.shape) for net in networks for x in jax.tree.leaves(net.shapes)) * jnp.dtype(dtype).itemsize
    parts = math.gcd(*(rules.divisor(net.shapes, tuple(net.stacks)) for net in networks))
    where = meshes.topology(groups)
    return meshes.make_mesh(
        **meshes.choose(where, parts, sizes, hardware.memory(groups[0][0])).sizes, groups=_used(groups, where)
    )


def _used(groups: list[list], where: meshes.Topology) -> list[list]:
    """The devices of a mesh: in a job of several processes one that names fewer than there are is refused."""
    return [groups[0][:1]] if where.platform == "cpu" else groups


def networks(pipeline: pipelines.Pipeline) -> list[Network]:
    return [getattr(pipeline, name) for name in pipelines.WEIGHTS]
