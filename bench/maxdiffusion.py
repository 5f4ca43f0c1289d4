"""Our Flux update and MaxDiffusion's Flux training step, compiled for one topology: `python bench/maxdiffusion.py -h`.

Both are compiled ahead of time for hardware that is not there, at FLUX.1-dev's width with a few blocks: one sample a device,
weights and Adam's moments float32 and sharded over all devices, arithmetic bfloat16, every block recomputed, gradients not
clipped. Ours is the update of a run with one trained step and no captions: each device has one transition of a prompt.
Printed for both: bytes of arguments and temporaries a device, operations of matrix products of all devices, bytes that a
device receives, exposed communication by the schedule, seconds by the roofline of `plan`. Figures go to
docs/bench/maxdiffusion.json.

The compilers come with the extra `plan`; their repository is a clone that is never committed here.
Of theirs, 7cfb8801 embeds the time of Flux.1 twice and cannot train it with guidance; e0ba26c5 can.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import maxdiffusion_step, timing  # noqa: E402
from mvgrpo_jax.errors import UserError, reports_errors  # noqa: E402
from mvgrpo_jax.planning import hardware  # noqa: E402
from mvgrpo_jax.planning.hardware import GIB  # noqa: E402

TEXT = 512
# Kind of attention -> ours, theirs.
ATTENTION = {"plain": ("xla", "dot_product"), "flash": ("splash", "flash")}


def figures(compiled, operations: int, islands: list[int], chip, took: float) -> dict:
    """Of a compiled program, per device but for the operations."""
    from mvgrpo_jax.planning import compilation

    memory = compiled.memory_analysis()
    traffic, uncounted = compilation.traffic_of(compiled, islands, chip)
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    seconds = compilation.seconds(chip, len(islands), operations, arguments + 2 * temporaries, traffic.exposed)
    kinds = {kind: round(traffic.inside[kind] + traffic.between[kind]) for kind in traffic.inside}
    row = {"arguments": arguments, "temporaries": temporaries, "operations": operations, "received": sum(kinds.values())}
    row |= {"received_by_kind": kinds, "exposed_s": traffic.exposed, "seconds": seconds, "compile_s": took}
    return row | ({"communication_not_counted": uncounted} if uncounted else {})


def config_of(devices: int, blocks: tuple[int, int], pixels: int, remat: str):
    """The paper's config cut down to one transition a device."""
    from mvgrpo_jax.configuration import arguments

    c = arguments.load(str(ROOT / "configs" / "mvgrpo_flux.py"))
    c.pipeline, c.prompts_per_iteration, c.group_size = f"FLUX.1-dev:{blocks[0]}+{blocks[1]}", devices, 2
    c.algorithm.mvgrpo.trained_steps, c.views.count, c.views.enhancer = (0,), 0, "none"
    c.image.height = c.image.width = pixels
    c.sampling.max_sequence_length, c.eval.every, c.train.remat = TEXT, 0, remat
    c.optimizer.max_grad_norm = 0.0
    c.mesh.auto, c.mesh.data, c.mesh.fsdp = False, 1, devices
    return c


def ours(topology: str, blocks: tuple[int, int], pixels: int, attention: str, remat: str) -> dict:
    import jax

    from mvgrpo_jax.planning.abstract import AbstractRun

    chip, _, _ = hardware.parse(topology)
    groups = hardware.islands(chip, hardware.devices(topology))
    config = config_of(sum(map(len, groups)), blocks, pixels, remat)
    run, counted = AbstractRun(config, groups, attention=attention), AbstractRun(config, groups, attention="xla")
    with jax.set_mesh(run.mesh):
        operations, call = counted.operations("update", counted.calls()["update"]), run.calls()["update"]
        began = time.perf_counter()
        compiled = call.program.lower(*call.arguments).compile()
    return figures(compiled, operations, run.islands, chip, time.perf_counter() - began)


def theirs(repository: Path, topology: str, blocks: tuple[int, int], pixels: int, attention: str, remat: str) -> dict:
    from mvgrpo_jax.planning import flops

    chip, _, _ = hardware.parse(topology)
    groups = hardware.islands(chip, hardware.devices(topology))
    devices = [device for group in groups for device in group]
    shape = {"blocks": blocks, "pixels": pixels, "text": TEXT, "remat": {"full": "FULL", "none": "NONE"}[remat]}
    step = maxdiffusion_step.step(repository, devices, attention=attention, **shape)
    plain = maxdiffusion_step.step(repository, devices, attention="dot_product", **shape)
    with plain.entered():
        operations = flops.count(plain.function, *plain.arguments)
    began = time.perf_counter()
    with step.entered():
        compiled = step.function.lower(*step.arguments).compile()
    islands = [number for number, group in enumerate(groups) for _ in group]
    return figures(compiled, operations, islands, chip, time.perf_counter() - began)


HEAD = ("", "arguments GiB", "temporaries GiB", "PFLOP", "received GiB", "exposed s", "seconds", "compile s")


def line(name: str, row: dict) -> tuple:
    sizes = [row[key] / GIB for key in ("arguments", "temporaries")]
    rest = [row["operations"] / 1e15, row["received"] / GIB, row["exposed_s"], row["seconds"], row["compile_s"]]
    return (name, *sizes, *rest)


@reports_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, required=True, help="a clone of AI-Hypercomputer/maxdiffusion")
    parser.add_argument("--topology", default="h200:1x8", help="as of plan")
    parser.add_argument("--blocks", default="2+4", help="of two streams and of one")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--attention", choices=sorted(ATTENTION), default="plain", help="flash is for TPUs")
    parser.add_argument("--remat", choices=["full", "none"], default="full")
    parser.add_argument("--out", type=Path, default=timing.FOLDER / "maxdiffusion.json")
    options = parser.parse_args()
    if options.attention == "flash" and hardware.parse(options.topology)[0].platform != "tpu":
        raise UserError("--attention flash is the kernel of both for TPUs; take plain, or a topology as v5e:2x4")
    hardware.prepare_environment()
    maxdiffusion_step.load(options.repository)
    blocks = tuple(map(int, options.blocks.split("+")))
    kinds = ATTENTION[options.attention]
    rows = {"ours": ours(options.topology, blocks, options.pixels, kinds[0], options.remat)}
    print(timing.table(HEAD, [line("ours", rows["ours"])]), flush=True)
    rows["MaxDiffusion"] = theirs(options.repository, options.topology, blocks, options.pixels, kinds[1], options.remat)
    print(timing.table(HEAD, [line(*item) for item in rows.items()]))
    facts = {"maxdiffusion": maxdiffusion_step.version(options.repository), "text_tokens": TEXT} | rows
    facts["flags"] = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    key = f"{options.topology}, {options.blocks} blocks, {options.pixels} px, {options.attention} attention, "
    key += f"remat {options.remat}"
    timing.record(options.out, key, facts, share=0.0)  # nothing is timed but the compilers


if __name__ == "__main__":
    main()
