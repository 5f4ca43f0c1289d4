"""Files of torch.save read without unpickling: torch's own numbers, and files that mean harm."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from mvgrpo_jax.convert.checkpoints import PickledTensors, open_weights
from mvgrpo_jax.convert.pickles import Refused, described
from mvgrpo_jax.errors import UserError


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(48, dtype=torch.float32).reshape(4, 12)
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict()  # with the modules' versions
    state |= {
        "whole": base,
        "rows": base[1:3],
        "turned": base.T,
        "steps": base[:, ::3],
        "inner": base.reshape(2, 2, 3, 4)[:, 1].transpose(0, 2),
    }
    state |= {"half": base.half() / 7, "bf16": base.bfloat16() / 7, "double": base.double() / 7}
    state |= {"long": torch.arange(5), "int": torch.arange(5, dtype=torch.int32), "byte": torch.arange(5, dtype=torch.uint8)}
    return state | {"bool": torch.tensor([True, False]), "number": torch.tensor(2.5), "none": torch.zeros(0, 3)}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", ["plain", "state_dict", "twice", "parallel"])
def test_tensors_are_torchs(tmp_path, legacy, wrap):
    state = tensors()
    content = {
        "plain": lambda: state | {"epoch": 3},
        "state_dict": lambda: {"epoch": 3, "name": "x", "state_dict": state, "rest": [1, (2.5, None)]},
        "twice": lambda: {"model": {"state_dict": state}},
        "parallel": lambda: collections.OrderedDict((f"module.{n}", t) for n, t in state.items()),
    }[wrap]()
    path = tmp_path / "x.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    source = PickledTensors(path)
    assert source.names() == list(state)
    for name, want in state.items():
        assert source.shape(name) == tuple(want.shape)
        got = source.read(name)
        assert got.dtype == source.dtype(name) and str(got.dtype) == str(want.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(got.astype(np.float64), want.double().numpy(), name)
    for name in ("whole", "turned", "steps"):
        np.testing.assert_array_equal(source.read(name, 1, 3), state[name][1:3].numpy())


def test_parameters_and_shared_storages(tmp_path):
    weight = torch.nn.Parameter(torch.randn(3, 5))
    torch.save({"a": weight, "b": weight.data[1:], "size": weight.shape}, tmp_path / "x.bin")
    source = open_weights(tmp_path)  # the only file of weights there
    np.testing.assert_array_equal(source.read("a"), weight.detach().numpy())
    np.testing.assert_array_equal(source.read("b"), weight.detach().numpy()[1:])
    assert (tmp_path / "x.bin").stat().st_size < 2000


def test_a_folder_with_two_files_of_weights_is_not_guessed_at(tmp_path):
    for name in ("a.pt", "b.bin"):
        torch.save({"x": torch.ones(1)}, tmp_path / name)
    with pytest.raises(UserError, match="has a.pt, b.bin; expected one file of weights"):
        open_weights(tmp_path)
    assert open_weights(tmp_path, ("c.bin", "b.bin")).where.endswith("b.bin")
    with pytest.raises(UserError, match="no such file or folder"):
        open_weights(tmp_path / "c")


class Does:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def archive(path, data: bytes, storages: dict[str, bytes] | None = None, compression=zipfile.ZIP_STORED, order="") -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", data)
        for key, content in (storages or {}).items():
            file.writestr(f"x/data/{key}", content)
        if order:
            file.writestr("x/byteorder", order)


def tensor(storage: bytes, *arguments) -> bytes:
    """A pickle of {'w': _rebuild_tensor_v2(persistent storage, *arguments)}; storage: the pickle of its reference."""
    rest = b"".join(pickle.dumps(item, 2)[2:-1] for item in (*arguments, False))
    return b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"Q" + rest + b"tRs."


def reference(count: int, kind: bytes = b"ctorch\nFloatStorage\n", key: bytes = b"0") -> bytes:
    number = pickle.dumps(count, 2)[2:-1]
    text = lambda t: b"X" + struct.pack("<I", len(t)) + t
    return b"(" + text(b"storage") + kind + text(key) + text(b"cpu") + number + b"t"


HOSTILE = {
    "os.system": (lambda mark: Does(os.system, f"touch {mark}"), r"the name posix.system"),
    "eval": (lambda mark: Does(eval, f"open({str(mark)!r}, 'w')"), "the name (__builtin__|builtins).eval"),
    "nested": (lambda mark: {"state_dict": {"w": [Does(os.system, f"touch {mark}")]}}, "the name posix.system"),
    "open": (lambda mark: Does(open, str(mark), "w"), "the name (io|_io).open"),
    "ordered": (lambda mark: Does(collections.OrderedDict, [("w", 1)]), "a call of collections.OrderedDict with"),
    "state": (lambda mark: Does(torch.Size, [1], state={"__class__": 1}), "a tuple where a dict is filled"),
    "class": (lambda mark: pickle.PickleError("x"), "the name .*PickleError"),
    "set": (lambda mark: {"w": {1, 2}}, "the (name|operation) "),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("kind", ["zip", "bare"])
def test_nothing_that_a_file_names_is_run(tmp_path, case, kind, protocol):
    make, expected = HOSTILE[case]
    mark, path = tmp_path / "ran", tmp_path / "x.pt"
    data = pickle.dumps(make(mark), protocol)
    archive(path, data) if kind == "zip" else path.write_bytes(data)
    with pytest.raises(UserError) as error:
        PickledTensors(path)
    assert not mark.exists() and "nothing in the file was run" in str(error.value)
    if kind == "zip" and protocol:  # what starts otherwise is no file of torch.save at all
        assert error.match(expected)


def test_the_hostile_files_would_run(tmp_path):
    """Else the test above showed nothing."""
    for case in ("os.system", "nested", "open"):
        mark = tmp_path / case
        pickle.loads(pickle.dumps(HOSTILE[case][0](mark), 2))
        assert mark.exists()


BAD_TENSORS = {
    "over the end": (reference(4), (2, (3,), (1,)), "reaches over its 4 stored numbers"),
    "expanded": (reference(4), (0, (10**9, 4), (0, 1)), "reaches over its 4 stored numbers"),
    "negative stride": (reference(4), (3, (4,), (-1,)), "a tensor of shape"),
    "negative offset": (reference(4), (-1, (1,), (1,)), "a tensor of shape"),
    "negative shape": (reference(4), (0, (-2, -2), (1, 1)), "a tensor of shape"),
    "fractions": (reference(4), (0, (1.5,), (1,)), "a tensor of shape"),
    "dimensions": (reference(4), (0, (1,) * 99, (1,) * 99), "a tensor of shape"),
    "more than there is": (reference(10**12), (0, (10**12,), (1,)), "16 bytes for the 1000000000000 numbers"),
    "another key": (reference(4, key=b"7"), (0, (4,), (1,)), "0 bytes for the 4 numbers"),
    "another storage": (reference(4, b"cos\nsystem\n"), (0, (4,), (1,)), "the name os.system"),
    "a tensor as storage": (reference(4, b"ctorch._utils\n_rebuild_tensor_v2\n"), (0, (4,), (1,)), "the stored object"),
    "complex": (reference(4, b"ctorch\nComplexFloatStorage\n"), (0, (4,), (1,)), "the name torch.ComplexFloatStorage"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_cannot_be(tmp_path, case):
    storage, arguments, expected = BAD_TENSORS[case]
    numbers = {"0": np.arange(4, dtype=np.float32).tobytes()}
    archive(tmp_path / "x.pt", tensor(storage, *arguments), numbers)
    with pytest.raises(UserError, match=expected):
        PickledTensors(tmp_path / "x.pt")
    archive(tmp_path / "x.pt", tensor(reference(4), 0, (2, 2), (1, 2)), numbers)  # the same file with a good one
    np.testing.assert_array_equal(PickledTensors(tmp_path / "x.pt").read("w"), [[0, 2], [1, 3]])


def test_archives_that_lie(tmp_path):
    path = tmp_path / "x.pt"
    good, numbers = tensor(reference(4), 0, (4,), (1,)), np.arange(4, dtype=np.float32).tobytes()
    archive(path, good, {"0": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="x/data/0 compressed, from [0-9]+ to 1000000 bytes"):
        PickledTensors(path)
    archive(path, good, {"0": numbers})
    whole = path.read_bytes()
    for wrong in (2**31, 2**32 - 2):  # both sizes in the directory at the end
        start = whole.rindex(b"PK\x01\x02")
        path.write_bytes(whole[: start + 20] + struct.pack("<II", wrong, wrong) + whole[start + 28 :])
        with pytest.raises(UserError, match="end beyond the file"):
            PickledTensors(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="expected tensors as torch.save writes them, found"):
            PickledTensors(path)
    archive(path, good, {"0": numbers}, order="big")
    with pytest.raises(UserError, match="another byte order than little"):
        PickledTensors(path)
    archive(path, good, {"0": numbers}, order="little")
    np.testing.assert_array_equal(PickledTensors(path).read("w"), range(4))


def test_files_cut_short_and_of_other_kinds(tmp_path):
    path = tmp_path / "x.pt"
    for legacy in (False, True):
        torch.save({"w": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        for part in (0.1, 0.5, 0.99):
            path.write_bytes(whole[: int(len(whole) * part)])
            with pytest.raises(UserError, match="expected tensors as torch.save writes them"):
                PickledTensors(path)
    for content, expected in (
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"", "neither a zip archive nor a pickle"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=expected):
            PickledTensors(path)
    torch.save([torch.ones(1)], path)
    with pytest.raises(UserError, match="no dict of tensors, nor one under state_dict"):
        PickledTensors(path)


def test_a_description_that_refers_to_itself_ends(tmp_path):
    deep = {"x": 1}
    for _ in range(60):
        deep = {"state_dict": deep, "model": deep}
    archive(tmp_path / "x.pt", pickle.dumps(deep, 2))
    with pytest.raises(UserError, match="no dict of tensors"):
        PickledTensors(tmp_path / "x.pt")
    with pytest.raises(Refused, match="a pickle that takes more than it has"):
        described(b"\x80\x02\x86.")
    with pytest.raises(Refused, match="damaged or cut short"):
        described(io.BytesIO(b"\x80\x02h\x05."))
