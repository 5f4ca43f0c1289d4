"""What a config's programs need on hardware that is not there: compiled ahead of time, and counted.

The programs are those that training runs (run/programs.py), called with abstract arrays (abstract.py).
"""

from __future__ import annotations

import dataclasses
import time

import jax

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.planning import collectives, hardware
from mvgrpo_jax.planning.abstract import AbstractRun, Call, per_device
from mvgrpo_jax.planning.hardware import MFU, Chip


@dataclasses.dataclass(frozen=True)
class Cost:
    """One compiled program, per device: bytes of arguments, results that are not arguments in place, temporaries; bytes that
    come from inside its island and from others (collectives.py), seconds of communication hidden and exposed; matrix-product
    operations of all devices together; estimated seconds in all; calls an iteration."""

    name: str
    calls: int
    arguments: int
    outputs: int
    temporaries: int
    resident: int
    operations: int
    inside: int
    between: int
    hidden: float
    exposed: float
    seconds: float
    compile_s: float
    error: str = ""
    note: str = ""  # why its communication was not counted

    @property
    def peak(self) -> int:
        """Everything on the device while the program runs, what other programs keep there included."""
        return self.resident + self.outputs + self.temporaries

    @property
    def collective(self) -> int:
        """Bytes that a device receives."""
        return self.inside + self.between


def seconds(chip: Chip, devices: int, operations: int, moved: int, exposed: float) -> float:
    """Roofline: the slower of matrix products at MFU of the peak and memory traffic, and communication that is not hidden."""
    return max(operations / (devices * chip.flops * MFU), moved / chip.bandwidth) + exposed


def measure(config, topology: str, only: tuple[str, ...] = ()) -> tuple[list[Cost], AbstractRun]:
    """Compiles every program (or `only` some) of a config for a topology."""
    chip, _, _ = hardware.parse(topology)
    groups = hardware.islands(chip, hardware.devices(topology))
    # Operations are counted with plain attention, whose matrix products stand in the jaxpr.
    run, counted = AbstractRun(config, groups), AbstractRun(config, groups, attention="xla")
    costs = []
    with jax.set_mesh(run.mesh):
        calls, counted_calls = run.calls(), counted.calls()
        if unknown := set(only) - set(calls):
            raise UserError(f"no program {', '.join(sorted(unknown))} in this run; there are: {', '.join(calls)}")
        for name, call in calls.items():
            if not only or name in only:
                operations = counted.operations(name, counted_calls[name])
                costs.append(cost_of(name, call, operations, run, chip))
    return costs, run


def cost_of(name: str, call: Call, operations: int, run: AbstractRun, chip: Chip) -> Cost:
    """Compiles one program and reads its memory and collectives."""
    began = time.perf_counter()
    try:
        compiled = call.program.lower(*call.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = str(error).split("HBM")[0].strip().splitlines()[-1][-80:]
        took = time.perf_counter() - began
        return Cost(name, call.times, 0, 0, 0, 0, operations, 0, 0, 0.0, 0.0, 0.0, took, f"out of memory: {needed}")
    took = time.perf_counter() - began
    memory = compiled.memory_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    # What this program does not take, but others keep on the device meanwhile.
    taken = {id(a) for a in jax.tree.leaves(call.arguments)}
    shared = per_device([x for x in jax.tree.leaves((run.held, call.beside)) if id(x) not in taken])
    traffic, uncounted = traffic_of(compiled, run.islands, chip)
    return Cost(
        name,
        call.times,
        arguments,
        max(outputs, 0),
        temporaries,
        arguments + shared,
        operations,
        round(sum(traffic.inside.values())),
        round(sum(traffic.between.values())),
        traffic.hidden,
        traffic.exposed,
        seconds(chip, run.mesh.size, operations, arguments + 2 * temporaries, traffic.exposed),
        took,
        note=uncounted,
    )


def traffic_of(compiled, islands: list[int], chip: Chip) -> tuple[collectives.Traffic, str]:
    """A program's communication, and why it was not counted. libtpu cannot print some of its programs: on v5p and v6e one that
    looks many words up in a large table ('async-update instruction should have 1 operands')."""
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        return collectives.Traffic(), str(error).splitlines()[0][:120]
    return collectives.count(text, islands, chip), ""
