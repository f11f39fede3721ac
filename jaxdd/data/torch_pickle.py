"""The values in the pickle of a file of PyTorch, read without unpickling: an interpreter that builds data only.

Of the operations of a pickle only those that build numbers, text, lists, tuples and dicts are known, and of the names
of code only those by which PyTorch and NumPy describe arrays. Each is a function of this file. Nothing is imported.
"""

import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_MOST_STEPS = 1_000_000
_MOST_EXPANDED = 2**24
_STORAGES = {
    "torch.FloatStorage": np.dtype(np.float32), "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16), "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64), "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16), "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8), "torch.BoolStorage": np.dtype(np.bool_),
}  # fmt: skip
_DTYPES = {
    f"{kind}{size}" for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248"), ("b", "1")) for size in sizes
}
_VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING",
    "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IDLE = {"PROTO", "FRAME", "STOP"}


class Refused(ValueError):
    """What a pickle holds and this file does not know."""


class Storage(NamedTuple):
    """A stretch of memory that tensors share: a name, the dtype and the number of its elements."""

    key: str
    dtype: np.dtype
    elements: int


class _Name(NamedTuple):
    """A name of code in a pickle."""

    path: str


class _Dtype:
    """A dtype of NumPy that is being described."""

    def __init__(self, code: Any):
        if code not in _DTYPES:
            raise Refused(f"it holds an array of NumPy of dtype {str(code)[:20]!r}")
        self.dtype = np.dtype(code)


class _Array:
    """An array of NumPy that is being described."""

    content: np.ndarray | None = None


Read = Callable[[Storage], np.ndarray]
"""A storage -> its elements, [n]."""


def load(content: bytes, read: Read) -> Any:
    """The value of a pickle: numbers, text, bytes, lists, tuples and dicts of these, and arrays of NumPy for tensors.

    Raises:
      Refused: it calls code, or holds objects of other types.
      ValueError, IndexError, KeyError, TypeError: it is damaged.
    """
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    machine = _Machine(read)
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        name = operation.name
        if count > _MOST_STEPS:
            raise Refused(f"its pickle takes more than {_MOST_STEPS} steps")
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack[len(stack) - size :] = [tuple(_last(stack, size))]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument or 0)])
        elif name == "MARK":
            marks.append(stack)
            stack = []
        elif name in _MARKED:
            items, stack = stack, marks.pop()
            _MARKED[name](stack, items)
        elif name in _PLAIN:
            _PLAIN[name](machine, stack, argument)
        elif name not in _IDLE:
            raise Refused(f"its pickle has the operation {name}")
    return _finished(stack[-1])


class _Machine(NamedTuple):
    """What the operations need besides the stack."""

    read: Read

    def name(self, stack: list, argument: str) -> None:
        stack.append(_known(".".join(argument.split(" ", 1))))

    def stacked_name(self, stack: list, _: Any) -> None:
        module, name = _last(stack, 2)
        stack[-2:] = [_known(f"{module}.{name}")]

    def persistent(self, stack: list, _: Any) -> None:
        kind, storage, key, _, count = stack.pop()
        if kind != "storage" or not isinstance(storage, _Name) or storage.path not in _STORAGES:
            raise Refused("it refers to objects that are no storage of a tensor")
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise Refused("a storage has no name or size")
        stack.append(Storage(key, _STORAGES[storage.path], count))

    def reduce(self, stack: list, _: Any) -> None:
        called, arguments = _last(stack, 2)
        if not isinstance(called, _Name) or called.path not in _CALLS or not isinstance(arguments, tuple):
            raise Refused("it calls what is no function of arrays")
        stack[-2:] = [_CALLS[called.path](self.read, *arguments)]

    def build(self, stack: list, _: Any) -> None:
        state = stack.pop()
        built = stack[-1]
        if isinstance(built, _Array):
            _, shape, dtype, is_fortran, content = state
            built.content = _from_bytes(dtype, content, shape, bool(is_fortran))
        # The state of a dtype repeats its byte order, and that of a dict has the versions of modules.
        elif isinstance(built, _Dtype):
            if state[1] == ">":
                built.dtype = built.dtype.newbyteorder(">")
        elif not isinstance(built, dict):
            raise Refused("it sets the state of an object")

    def empty(self, stack: list, kind: type) -> None:
        stack.append(kind())

    def item(self, stack: list, _: Any) -> None:
        items = _last(stack, 2)
        del stack[-2:]
        _set(stack, items)

    def append(self, stack: list, _: Any) -> None:
        items = _last(stack, 1)
        del stack[-1:]
        _extend(stack, items)


def _last(stack: list, count: int) -> list:
    """The last elements of a stack; IndexError if there are fewer."""
    if len(stack) < count:
        raise IndexError("its pickle takes more than it holds")
    return stack[len(stack) - count :]


def _known(path: str) -> _Name:
    if path not in _CALLS and path not in _STORAGES and path not in _WORDS:
        raise Refused(f"it names {path[:80]}, and no code of a file is run")
    return _Name(path)


def _extend(stack: list, items: list) -> None:
    if type(stack[-1]) is not list:
        raise Refused("it appends to what is no list")
    stack[-1].extend(items)


def _set(stack: list, items: list) -> None:
    if type(stack[-1]) is not dict:
        raise Refused("it sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # The hash of a nested key would take its depth of the stack of the process.
        if not isinstance(key, str | bytes | int | float | None):
            raise Refused("it has a dict with keys that are neither text nor numbers")
        stack[-1][key] = value


def _dict(stack: list, items: list) -> None:
    stack.append({})
    _set(stack, items)


_MARKED: dict[str, Callable[[list, list], None]] = {
    "TUPLE": lambda stack, items: stack.append(tuple(items)),
    "LIST": lambda stack, items: stack.append(items),
    "DICT": _dict,
    "APPENDS": _extend,
    "SETITEMS": _set,
    "POP_MARK": lambda stack, items: None,
}
_PLAIN: dict[str, Callable[[_Machine, list, Any], None]] = {
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "BINPERSID": _Machine.persistent,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "SETITEM": _Machine.item,
    "APPEND": _Machine.append,
    "POP": lambda machine, stack, _: stack.pop(),
    "EMPTY_LIST": lambda machine, stack, _: stack.append([]),
    "EMPTY_DICT": lambda machine, stack, _: stack.append({}),
}


def _tensor(read: Read, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A view of a storage, of which all elements lie inside."""
    sides = (*size, *stride, offset)
    if not isinstance(storage, Storage) or len(size) != len(stride) or any(type(k) is not int or k < 0 for k in sides):
        raise Refused("a tensor has no storage, shape or strides")
    count = math.prod(size)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride))
    if count and last >= storage.elements or count > max(storage.elements, _MOST_EXPANDED):
        raise Refused(f"a tensor {list(size)} does not fit its storage of {storage.elements} elements")
    content = read(storage)
    strides = [step * content.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(content[offset:], size, strides, writeable=False) if count else np.empty(
        size, content.dtype)  # fmt: skip
    return view.astype(np.float32) if view.dtype == ml_dtypes.bfloat16 else view


def _from_bytes(dtype: Any, content: Any, shape: tuple, is_fortran: bool = False) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
        raise Refused("it holds an array of NumPy without numbers")
    array = np.frombuffer(content, dtype.dtype)
    return array.reshape(shape, order="F" if is_fortran else "C").astype(dtype.dtype.newbyteorder("="))


def _encoded(_: Read, text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes what is no text")
    return text.encode("latin1")


def _ordered(_: Read, items: Any = ()) -> dict:
    made: list = [{}]
    _set(made, [part for pair in items for part in pair])
    return made[0]


def _scalar(_: Read, dtype: Any, content: Any) -> np.ndarray:
    return _from_bytes(dtype, content, ())


def _buffer(_: Read, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _from_bytes(dtype, content, shape, order == "F")


_NUMPY: dict[str, Callable[..., Any]] = {
    "multiarray.scalar": _scalar,
    "multiarray._reconstruct": lambda read, *_: _Array(),
    "numeric._frombuffer": _buffer,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda read, tensor, *_: tensor,
    "torch.Size": lambda read, sides: tuple(sides),
    "torch.device": lambda read, *names: names,
    "numpy.dtype": lambda read, code, *_: _Dtype(code),
    "_codecs.encode": _encoded,
    **{f"numpy.{core}.{name}": call for core in ("core", "_core") for name, call in _NUMPY.items()},
}
# Types that are only named, as the class of an array.
_WORDS = {"numpy.ndarray"}


def _finished(value: Any) -> Any:
    """The value with arrays in the place of their descriptions, in the lists and dicts near its top."""
    level = [value]
    for _ in range(4):
        below: list[Any] = []
        for one in level:
            items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
            for key, part in list(items):
                if isinstance(part, tuple) and any(isinstance(item, _Array) for item in part):
                    one[key] = part = list(part)
                if isinstance(part, _Array):
                    one[key] = part.content
                below.append(part)
        level = below
    return value.content if isinstance(value, _Array) else value
