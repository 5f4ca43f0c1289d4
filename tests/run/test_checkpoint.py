"""Checkpoints: each file of one damaged in turn, and restoring on other numbers of devices and processes."""

import json
import shutil
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mvgrpo_jax.core.structs import TrainState
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import to_host
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.prompts import stream
from mvgrpo_jax.run import checkpoint, integrity
from tests.processes import succeed, together

TEXTS = [f"prompt {i}" for i in range(7)]


def state(iteration: int, devices: int):
    """(a small TrainState whose every number depends on the iteration, where its leaves go) over fsdp."""
    params = {"kernel": np.zeros((16, 8), np.float32), "bias": np.zeros(8, np.float32), "scale": np.zeros(3, np.float32)}
    whole = TrainState(np.int32(0), params, optax.adamw(1e-3).init(params), params)
    mesh, count = make_mesh(fsdp=devices), iter(range(10**6))

    def fill(x):
        values = (np.random.default_rng([iteration, next(count)]).normal(size=np.shape(x)) * 100).astype(x.dtype)
        where = NamedSharding(mesh, P("fsdp") if values.size % 8 == 0 else P())
        return jax.make_array_from_callback(values.shape, where, lambda index: values[index])

    made = jax.tree.map(fill, whole)
    return made, checkpoint.abstract(made, jax.tree.map(lambda x: x.sharding, made))


def numbers(tree):
    return [to_host(x) for x in jax.tree.leaves(tree)]


def equal(got, want) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(numbers(got), numbers(want), strict=True))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of iterations 2 and 4."""
    folder = tmp_path_factory.mktemp("saved")
    store = checkpoint.Checkpoints(folder, 3)
    for iteration in (2, 4):
        store.save(iteration, state(iteration, 8)[0], {"at": iteration})
    store.wait()
    store.close()
    return folder


def newest(folder, **options):
    """((iteration, whether state and data are those of it), what was warned of)."""
    series = checkpoint.Series(folder / "checkpoints", 3)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = series.newest(state(2, 8)[1], **options)
    series.close()
    said = " ".join(str(w.message) for w in seen if "passed over" in str(w.message))
    return found and (found[0], equal(found[1], state(found[0], 8)[0]) and found[2] == {"at": found[0]}), said


def test_a_damaged_file_never_gives_other_numbers(saved, tmp_path):
    """Each file of the newest checkpoint cut to half, emptied and deleted: the one before is taken with a warning that names
    the file, unless the file is one of orbax's that no number depends on."""
    assert newest(saved) == ((4, True), "")
    names = sorted(str(p.relative_to(saved / "checkpoints/4")) for p in (saved / "checkpoints/4").rglob("*") if p.is_file())
    assert len(names) > 10
    quiet = set()
    for name in names:
        for how in ("half", "empty", "gone"):
            folder = tmp_path / "copy"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(saved, folder)
            file = folder / "checkpoints/4" / name
            file.unlink() if how == "gone" else file.write_bytes(
                file.read_bytes()[: file.stat().st_size // 2 if how == "half" else 0]
            )
            (step, same), said = newest(folder)
            assert same, (name, how)
            if step == 4:
                quiet.add(name)
            else:
                assert step == 2 and "passed over" in said and (name in said or name == integrity.LIST), (name, how, said)
    assert quiet <= {"_CHECKPOINT_METADATA", "commit_success.txt"}, quiet


@pytest.mark.parametrize("what", ["an emptied state", "no state", "no metadata", "other bytes"])
def test_a_damaged_checkpoint_is_passed_over_and_replaced(saved, tmp_path, what):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints/4"
    if what == "no metadata":
        (folder / "_CHECKPOINT_METADATA").unlink()
    elif what == "other bytes":  # sizes alone do not tell
        for file in (folder / "state").rglob("*"):
            file.is_file() and file.write_bytes(b"\xff" * file.stat().st_size)
    else:
        shutil.rmtree(folder / "state")
        what == "no state" or (folder / "state").mkdir()
    found, said = newest(tmp_path, discard=True)
    assert found == (2, True) and "for the checkpoint of iteration 2" in said
    store = checkpoint.Checkpoints(tmp_path, 3)
    assert store.last.steps() == [2]
    store.save(4, state(4, 8)[0], {"at": 4})
    store.wait()
    store.close()
    assert newest(tmp_path) == ((4, True), "")


def test_a_bit_that_turned_over_is_found(tmp_path):
    """In the largest files, which hold the arrays, and in the data, whose digits make other JSON."""
    rng, series = np.random.default_rng(0), checkpoint.Series(tmp_path / "checkpoints", 3)
    tree = {f"{kind}{i}": jnp.asarray(rng.normal(size=(64, 65)), kind) for kind in ("float32", "bfloat16") for i in range(2)}
    tree |= {"count": jnp.int32(7), "done": jnp.asarray(True)}
    for step in (2, 4):
        series.save(step, tree, {"at": step, "beside": 123456})
        series.wait()
    series.close()
    folder = tmp_path / "checkpoints/4"
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole, abstract = (
        file.read_bytes(),
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree),
    )

    def found():
        series = checkpoint.Series(tmp_path / "checkpoints", 3)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step, state, data = series.newest(abstract)
        series.close()
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(tree)))
        assert data == {"at": step, "beside": 123456}
        return step, " ".join(str(w.message) for w in seen)

    assert found()[0] == 4
    for where in (0.2, 0.4, 0.6, 0.8):
        damaged = bytearray(whole)
        damaged[int(where * len(whole))] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        step, said = found()
        assert step == 2 and "passed over" in said and ("1 of its 6 arrays are not what was saved" in said or "read" in said)
    file.write_bytes(whole)
    numbers = folder / "data/metadata"
    numbers.write_text(numbers.read_text().replace("123456", "123457"))
    assert found()[0] == 2 and "its data is not what was saved" in found()[1]


def test_without_a_whole_checkpoint_nothing_begins_from_zero(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for step in (2, 4):
        (tmp_path / f"checkpoints/{step}/data/metadata").write_text("")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole \(4: data/metadata has 0 bytes, not .*; 2: data"):
        newest(tmp_path, discard=True)
    assert (tmp_path / "checkpoints/4/state").is_dir()  # nothing is deleted then
    assert newest(tmp_path / "another") == (None, "")


TOGETHER = """
from pathlib import Path
from tests.run.test_checkpoint import there_and_back
there_and_back(*map(Path, ARGUMENTS), 2)
"""


def there_and_back(source: Path, target: Path, devices: int):
    """Restores iteration 4 on so many devices, draws two batches of prompts, and saves all as iteration 6."""
    store, end = checkpoint.Series(source / "checkpoints", 3), checkpoint.Series(target / "checkpoints", 3)
    abstract = state(4, devices)[1]
    step, restored, data = store.newest(abstract)
    assert step == 4 and equal(restored, state(4, devices)[0])
    assert all(x.sharding == a.sharding for x, a in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract)))
    batches = stream(TEXTS, 2, 0)
    batches.set_state(data["stream"])
    drawn = [next(batches).tolist() for _ in range(2)]
    end.save(6, restored, {"stream": batches.get_state(), "drawn": drawn})
    end.wait()
    store.close()
    end.close()


def test_other_numbers_of_devices_and_processes(tmp_path):
    """Written by 8 devices, read and written by 2 processes, then by one device and by 8: the same state and prompts."""
    batches = stream(TEXTS, 2, 0)
    next(batches)
    store = checkpoint.Series(tmp_path / "eight" / "checkpoints", 3)
    store.save(4, state(4, 8)[0], {"stream": batches.get_state()})
    store.wait()
    store.close()
    want = [next(batches).tolist() for _ in range(3)]
    succeed(together(TOGETHER, str(tmp_path / "eight"), str(tmp_path / "two")))
    series = checkpoint.Series(tmp_path / "two" / "checkpoints", 3)
    for devices in (1, 8):
        step, got, data = series.newest(state(4, devices)[1])
        assert step == 6 and equal(got, state(4, devices)[0])
        assert data["drawn"] == want[:2]
        follow = stream(TEXTS, 2, 0)
        follow.set_state(data["stream"])
        assert next(follow).tolist() == want[2]
    assert json.loads((tmp_path / "two/checkpoints/6/files.json").read_text())
    series.close()


BOTH = """
from pathlib import Path
from mvgrpo_jax.run import checkpoint
from tests.run.test_checkpoint import state
store = checkpoint.Checkpoints(Path(ARGUMENTS[0]), 2)
for step in range(1, 9):
    made = state(step, 2)[0]
    store.save(step, made, {"at": step})
    store.save_best(step, made.params, {"at": step})
store.wait()
print(store.last.steps(), store.best.steps())
"""


def test_two_processes_write_a_checkpoint_and_the_best_weights_at_once(tmp_path):
    assert [out.splitlines()[-1] for out in succeed(together(BOTH, str(tmp_path)))] == ["[8, 7] [8]"] * 2


def test_a_checkpoint_that_knows_the_best_score_comes_after_the_best_weights(tmp_path, monkeypatch):
    """Otherwise a kill between the two leaves a run that takes a score for reached whose weights are nowhere."""
    sealed, real = [], integrity.write_list

    def write_list(folder):
        if folder.parent.name == "best":
            time.sleep(0.5)
        sealed.append(folder.parent.name)
        real(folder)

    monkeypatch.setattr(integrity, "write_list", write_list)
    store, (whole, _) = checkpoint.Checkpoints(tmp_path, 3), state(1, 1)
    store.save_best(1, whole.params, {"score": 0.5})
    store.save(2, whole, {"best": 0.5})
    store.wait()
    store.close()
    assert sealed == ["best", "checkpoints"]
