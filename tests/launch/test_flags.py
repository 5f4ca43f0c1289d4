"""Flags of the chips: what is printed, what wins over what, and that the compilers know every one."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch import flags
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.run import environment

ROOT = Path(__file__).parents[2]
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
# A layer whose weights are cut and gathered, compiled for a chip with the flags that stand in the environment.
COMPILE = """
import sys
from mvgrpo_jax.planning import hardware
hardware.prepare_environment()
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(hardware.devices(sys.argv[1])), ("fsdp",))
array = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp")))
loss = lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2)
compiled = jax.jit(lambda w, x: w - jax.grad(loss)(w, x), out_shardings=array.sharding).lower(array, array).compile()
print("compiled for", len(mesh.devices), compiled.memory_analysis().argument_size_in_bytes)
"""


def in_a_shell(*words, then, **variables):
    """What a shell prints that has evaluated the flags."""
    command = shlex.join([sys.executable, "-m", "launch.flags", *words])
    base = {k: v for k, v in os.environ.items() if k not in environment.LISTS}
    script = f'F=$({command}) || exit; eval "$F"; {then}'
    return subprocess.run(["bash", "-c", script], cwd=ROOT, env=base | variables, capture_output=True, text=True)


def test_a_shell_has_them_after_eval():
    done = in_a_shell("--chip=v6e", then='echo "$LIBTPU_INIT_ARGS"')
    (line,) = done.stdout.splitlines()  # on one line
    assert line.split() == [f"--{f.name}={f.value}" for f in flags.TABLE if "v6e" in f.chips and not f.slices]
    done = in_a_shell("--chip=h200", "--set=NCCL_DEBUG=a b", then='echo "$NCCL_DEBUG" "$NCCL_NVLS_ENABLE" "$XLA_FLAGS"')
    assert done.stdout.startswith("a b 1 --xla_gpu_")


def test_what_stands_there_wins_over_the_table_and_what_is_set_over_both():
    here = {"XLA_FLAGS": "--xla_gpu_all_gather_combine_threshold_bytes=7 --xla_dump_to=d --xla_gpu_x", "NCCL_NVLS_ENABLE": "0"}
    values = flags.variables("h100", 1, {}, here)
    line = values["XLA_FLAGS"].split()
    assert "--xla_gpu_all_gather_combine_threshold_bytes=7" in line and "--xla_dump_to=d" in line and "--xla_gpu_x=true" in line
    assert len([w for w in line if w.startswith("--xla_gpu_all_gather_combine")]) == 1 and values["NCCL_NVLS_ENABLE"] == "0"
    given = flags.read(["xla_gpu_all_gather_combine_threshold_bytes=8", "--xla_dump_to=", "NCCL_NVLS_ENABLE="])
    values = flags.variables("h100", 1, given, here)
    assert "--xla_gpu_all_gather_combine_threshold_bytes=8" in values["XLA_FLAGS"].split()
    assert "xla_dump_to" not in values["XLA_FLAGS"]
    assert "unset NCCL_NVLS_ENABLE" in flags.exports(values).splitlines()


def test_flags_of_several_slices():
    one, two = (flags.variables("v5p", slices, {}, {})["LIBTPU_INIT_ARGS"].split() for slices in (1, 2))
    assert set(one) < set(two) and any("data_parallel_all_reduce" in word for word in set(two) - set(one))


@pytest.mark.parametrize("word", ["NCCL_DEBUG", "=1", "a b=1", "NCCL_DEBUG=a\nb", "xla_x=1 \\"])
def test_a_setting_that_is_none(word):
    with pytest.raises(UserError, match="expected NAME=VALUE"):
        flags.read([word])


def test_an_unknown_chip():
    done = in_a_shell("--chip=h20", then="echo came here")
    assert done.returncode == 2 and "came here" not in done.stdout and "Did you mean 'h200'" in done.stderr


@pytest.mark.parametrize("chip", flags.TPUS)
def test_libtpu_takes_the_flags_of_a_chip(chip):
    values = flags.variables(chip, 2, {}, {})
    done = compiled(TOPOLOGIES[chip], **values)
    assert done.stdout.startswith("compiled for"), done.stderr[-2000:]
    values["LIBTPU_INIT_ARGS"] += " --xla_tpu_no_such_flag=true"
    done = compiled(TOPOLOGIES[chip], **values)
    assert done.returncode and "xla_tpu_no_such_flag" in done.stderr


@pytest.mark.parametrize("chip", flags.GPUS)
def test_xla_takes_the_flags_of_a_chip(chip):
    values = flags.variables(chip, 1, {}, {})
    done = compiled(f"{chip}:1x2", **values)
    assert done.stdout.startswith("compiled for"), done.stderr[-2000:]
    values["XLA_FLAGS"] += " --xla_gpu_no_such_flag=true"
    assert "xla_gpu_no_such_flag" in compiled(f"{chip}:1x2", **values).stderr


def compiled(topology, **variables):
    return subprocess.run(
        [sys.executable, "-c", COMPILE, topology],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""} | variables | {"TF_CPP_MIN_LOG_LEVEL": "1"},
        capture_output=True,
        text=True,
    )


def test_the_table_stands_in_the_docs():
    assert flags.markdown() in (ROOT / "docs" / "pods.md").read_text(), "python -m launch.flags --table"


def test_a_run_says_which_it_finds():
    here = {"XLA_FLAGS": "--a=1  --b=2", "NCCL_DEBUG": "INFO", "NCCL_X": "", "JAX_OPTIMIZATION_LEVEL": "O1", "HOME": "/"}
    assert environment.describe(here, "gpu").splitlines() == [
        "flags: XLA_FLAGS",
        "  --a=1",
        "  --b=2",
        "flags: JAX_OPTIMIZATION_LEVEL=O1",
        "flags: NCCL_DEBUG=INFO",
    ]
    assert "launch/flags.py" in environment.describe({}, "tpu") and environment.describe({}, "cpu") == ""
    named = {flag.name for flag in flags.TABLE if not flag.name.startswith(flags.IN_A_LIST)}
    assert environment.found(dict.fromkeys(named, "1")).keys() == named  # a run shows what the launchers set


@pytest.mark.parametrize("line", [pytest.param("", marks=pytest.mark.nightly), "--xla_force_host_platform_device_count=1"])
def test_the_command_prints_them(line):
    words = ["-m", "mvgrpo_jax.main", "--config=configs/flux_nano.py", "--dry_run", "--config.eval.every=0"]
    base = {k: v for k, v in os.environ.items() if k not in environment.LISTS and not k.startswith("NCCL")}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=base | ({"XLA_FLAGS": line} if line else {}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"flags: XLA_FLAGS\n  {line}\n") if line else "flags:" not in done.stdout
