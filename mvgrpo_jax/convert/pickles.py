"""What a pickle of torch.save describes, without unpickling: nothing that it names is ever imported or called.

A pickle is a program for a small stack machine. The one here knows the operations that dicts, lists, tuples, numbers, texts and
tensors need. A global name only puts a mark on the stack, and what is to be done with a mark stands in the few lines below. The
first operation or name that is not listed refuses the file and is named.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from mvgrpo_jax.convert.sources import DTYPES

_STORAGES = {
    "torch DoubleStorage": "F64",
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}
_TENSOR = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER = "torch._utils _rebuild_parameter"
_DICT, _SIZE = "collections OrderedDict", "torch Size"
_GLOBALS = {*_STORAGES, *_TENSOR, _PARAMETER, _DICT, _SIZE}
_DIMENSIONS = 32  # of a tensor at most, as numpy's


class Refused(Exception):
    """What a pickle asks for that is not done."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A global that a pickle names, as 'module name'."""

    of: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `count` numbers, by its key in the file."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor as a pickle describes it: a part of a storage. offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        numbers = (self.offset, *self.shape, *self.strides)
        if not len(self.shape) == len(self.strides) <= _DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
            raise Refused(f"a tensor of shape {self.shape} and strides {self.strides} at {self.offset}"[:200])
        if self.size > self.storage.count or self.size and self.offset + self.span > self.storage.count:
            raise Refused(f"a tensor of shape {list(self.shape)} that reaches over its {self.storage.count} stored numbers")

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def span(self) -> int:
        """Numbers from the first to the last one."""
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides)) if self.size else 0

    @property
    def contiguous(self) -> bool:
        step = 1
        for n, stride in zip(self.shape[::-1], self.strides[::-1]):
            if n != 1 and stride != step:
                return not self.size
            step *= n
        return True


def described(pickle: bytes | BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """What a pickle makes, of dicts, lists, tuples, numbers, texts and Views, and the storages that it names, by key; Refused
    names what else it asks for. A file is left behind the pickle's end."""
    storages: dict[str, Storage] = {}
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def above() -> list[Any]:
        """Takes what lies above the last mark."""
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def taken(count: int) -> list[Any]:
        if count > len(stack):
            raise Refused("a pickle that takes more than it has")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    def of(kind: type) -> Any:
        if type(stack[-1]) is not kind:
            raise Refused(f"a {type(stack[-1]).__name__} where a {kind.__name__} is filled")
        return stack[-1]

    def update(items: list[Any]) -> None:
        pairs = dict(zip(items[::2], items[1::2], strict=True))  # TypeError for what cannot be a key
        of(dict).update(pairs)

    constants = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
    empty: dict[str, Callable] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
    values = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING")
    values += ("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "INT", "LONG", "FLOAT", "UNICODE")
    try:
        for code, value, _ in pickletools.genops(pickle):
            match code.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop(), storages
                case "MARK":
                    marks.append(len(stack))
                case name if name in constants:
                    stack.append(constants[name])
                case name if name in empty:
                    stack.append(empty[name]())
                case name if name in values:
                    stack.append(value)
                case "BINPUT" | "LONG_BINPUT" | "PUT":
                    memo[int(value)] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET" | "GET":
                    stack.append(memo[int(value)])
                case "TUPLE":
                    stack.append(tuple(above()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    stack.append(tuple(taken(int(code.name[-1]))))
                case "LIST":
                    stack.append(above())
                case "DICT":
                    items = above()
                    stack.append({})
                    update(items)
                case "APPEND":
                    [item] = taken(1)
                    of(list).append(item)
                case "APPENDS":
                    items = above()
                    of(list).extend(items)
                case "SETITEM":
                    update(taken(2))
                case "SETITEMS":
                    update(above())
                case "GLOBAL":
                    stack.append(_name(value))
                case "STACK_GLOBAL":
                    stack.append(_name(" ".join(map(str, taken(2)))))
                case "BINPERSID":
                    storage = _storage(stack.pop())
                    stack.append(storages.setdefault(storage.key, storage))
                case "REDUCE":
                    stack.append(_reduced(*taken(2)))
                case "BUILD":  # what torch notes beside a state dict, its modules' versions
                    taken(1)
                    of(dict)
                case name:
                    raise Refused(f"the operation {name}")
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise Refused(f"a pickle that is damaged or cut short ({error})") from None
    raise Refused("a pickle without an end")


def _name(name: str) -> Name:
    if name not in _GLOBALS:
        raise Refused(f"the name {name.replace(' ', '.')}")
    return Name(name)


def _storage(reference: Any) -> Storage:
    """('storage', type, key, device, count), and in older files None or (key, offset, count) of a part of it."""
    _, kind, key, _, count, *part = reference
    known = isinstance(kind, Name) and kind.of in _STORAGES and isinstance(key, str) and type(count) is int and count >= 0
    if reference[0] != "storage" or not known or any(part):
        raise Refused(f"the stored object {reference!r}"[:200])
    return Storage(key, DTYPES[_STORAGES[kind.of]], count)


def _reduced(function: Any, arguments: Any) -> Any:
    name = function.of if isinstance(function, Name) else repr(function)[:80]
    if name in _TENSOR and isinstance(arguments[0], Storage):
        storage, offset, shape, strides = arguments[:4]
        return View(storage, offset, tuple(shape), tuple(strides))
    if name == _PARAMETER and isinstance(arguments[0], View):
        return arguments[0]
    if name == _DICT and arguments == ():
        return {}
    if name == _SIZE and len(arguments) == 1:
        return tuple(arguments[0])
    raise Refused(f"a call of {name.replace(' ', '.')} with {arguments!r}"[:200])
