"""Weights onto devices: each byte is read once, by one process or two, and every bit arrives where the rules say."""

import hashlib
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import import_params, placing, sources
from mvgrpo_jax.convert.naming import Entry
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import rules
from mvgrpo_jax.parallel.mesh import make_mesh
from tests.processes import succeed, together

FILE = pipelines.EMBEDDED / "text_encoder_2" / "model.safetensors"
SCRIPT = """
import json
from mvgrpo_jax.parallel.mesh import make_mesh
from tests.convert.test_placing import loaded
print(json.dumps([loaded(make_mesh(2, 1, 1)), loaded(make_mesh(1, 2, 1))]))
"""


@pytest.fixture
def count(monkeypatch):
    return counted(monkeypatch)


def counted(patch) -> list[int]:
    """Grows by the bytes of each read of a file."""
    sizes, real = [], sources.Stored.read

    def read(stored, start, stop):
        out = real(stored, start, stop)
        sizes.append(out.nbytes)
        return out

    patch.setattr(sources.Stored, "read", read)
    return sizes


def digest(array) -> str:
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


def loaded(mesh):
    """(bytes that this process reads of the embedded T5, a digest of its first device's part of each leaf)."""
    net = pipelines.describe("flux-nano").text_encoder_2
    with pytest.MonkeyPatch.context() as patch:
        sizes = counted(patch)
        params = import_params(net, FILE.parent, sharding=rules.placements(net, mesh))
    return sum(sizes), [digest(leaf.addressable_shards[0].data) for leaf in jax.tree.leaves(params)]


@pytest.mark.parametrize("way", ["whole", "cut", "dealt"])
@pytest.mark.parametrize("shape", [(1, 8, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_rows_are_read_once_and_every_bit_arrives(shape, way, count, tmp_path, monkeypatch, capfd):
    """A stack of kernels of random bits, denormals among them; 20 rows do not divide by 8."""
    mesh = make_mesh(*shape)
    if way != "whole":
        monkeypatch.setattr(placing, "SMALL", 0)
    if way == "dealt":  # as one of several processes, which has all devices
        monkeypatch.setattr(jax, "process_count", lambda: 2)
    for spec, rows in ((P(None, "fsdp"), 20), (P(None, "fsdp", "tensor"), 20), (P(None, "tensor", "fsdp"), 24), (P(), 20)):
        bits = np.random.default_rng(0).integers(0, 2**16, (3, rows, 16), np.uint16) & 0xBFFF  # finite
        save_file({f"w.{i}": layer.view(ml_dtypes.bfloat16) for i, layer in enumerate(bits)}, tmp_path / "x.safetensors")
        source, where = sources.TensorFiles(tmp_path / "x.safetensors"), NamedSharding(mesh, spec)
        entries = [Entry(name, ("w", "kernel"), i, (rows, 16)) for i, name in enumerate(source.names())]
        (got,) = placing.place([placing.Leaf.of(source, entries, None, where)])
        assert got.sharding == where
        for part in got.addressable_shards:
            np.testing.assert_array_equal(np.asarray(part.data).view(np.uint16), bits.transpose(0, 2, 1)[part.index])
        assert sum(count) == bits.nbytes
        count.clear()
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("shape", [(1, 8, 1), (8, 1, 1), (2, 4, 1)])
def test_a_network_is_read_once(shape):
    assert loaded(make_mesh(*shape))[0] <= FILE.stat().st_size


def test_two_processes_read_a_file_once_together():
    said = [json.loads(out.splitlines()[-1]) for out in succeed(together(SCRIPT))]
    net = pipelines.describe("flux-nano").text_encoder_2
    whole = jax.tree.leaves(import_params(net, FILE.parent))
    for i, sizes in enumerate(((2, 1, 1), (1, 2, 1))):
        assert sum(process[i][0] for process in said) <= 1.05 * FILE.stat().st_size
        mesh = make_mesh(*sizes)
        places = jax.tree.leaves(rules.parameter_shardings(net.shapes, mesh, tuple(net.stacks)))
        for device, process in zip(mesh.devices.flat, said):
            parts = [array[where.devices_indices_map(array.shape)[device]] for array, where in zip(whole, places)]
            assert process[i][1] == [digest(part) for part in parts]


def test_each_process_repeats_little():
    """Four processes repeat 3 x what each reads whole: 0.04 of 1,000 bytes allow 13."""
    assert placing.repeated([900, 6, 80, 5, 9], 4) == {1, 3}
    assert placing.repeated([900, 6, 80, 5, 9], 1) == {0, 1, 2, 3, 4}
    assert placing.repeated([placing.SMALL + 1, placing.SMALL], 1) == {1}


def test_threads_read_ahead_of_a_window_in_order():
    held, most = [], []

    def call(number, size):
        held.append(size)
        most.append(sum(held))
        return number

    sizes = [3, 4, 5, 30, 1, 1, 9, 2]
    got = []
    for number in placing.read_ahead(((size, lambda a=a, b=size: call(a, b)) for a, size in enumerate(sizes)), 10):
        got.append(number)
        held.remove(sizes[number])
    assert got == list(range(8)) and max(most) == 30


def test_what_a_thread_raises_arrives():
    def fails():
        raise UserError("ended early")

    with pytest.raises(UserError, match="ended early"):
        list(placing.read_ahead(iter([(1, lambda: 0), (1, fails), (1, lambda: 2)]), 10))
