"""What a compiled TPU program does, read from its text: products by precision, traffic, padding, collectives.

XLA's own count of operations takes every loop for one round, so here each instruction is counted as often as it runs. A
TPU keeps arrays in tiles, for example of 8 x 128 elements. An array whose two last dimensions are 10 x 3 then takes 68
times its size. The *padding waste* is the share of such bytes.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SIZES = {"pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2,
         "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
# Multiplications of bfloat16 numbers that a product of float32 numbers takes on the matrix unit.
PASSES = {"highest": 6, "high": 3}

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .+ \{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
# Instructions that move nothing.
_FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all", "partition-id", "iota"}


class Array(NamedTuple):
    """One array of an instruction's result."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]  # dimensions from the fastest
    tiles: str

    @property
    def size(self) -> int:
        """Bytes without padding."""
        return math.prod(self.dims) * SIZES.get(self.dtype, 0)

    @property
    def padded(self) -> int:
        """Bytes in tiles."""
        found = re.search(r"T\(([\d,]+)\)", self.tiles)
        dims = [self.dims[k] for k in self.order] if self.order else list(self.dims[::-1])
        for place, tile in enumerate(reversed(found[1].split(","))) if found else ():
            if place < len(dims):
                dims[place] = -(-dims[place] // int(tile)) * int(tile)
        return math.prod(dims) * SIZES.get(self.dtype, 0)

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in the main memory, and not in that of the core (S(1) and others)."""
        return not re.search(r"S\([1-9]", self.tiles)


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    value: str  # of a constant
    rest: str  # what follows the operands

    def attribute(self, name: str, pattern: str = r"%?([\w.\-]+)") -> str | None:
        """The value of an attribute, such as the computation of ``calls=``."""
        found = re.search(rf"\b{name}={pattern}", self.rest)
        return found and found[1]

    @property
    def source(self) -> str:
        """The operation of JAX that it comes from."""
        return (re.search(r'op_name="([^"]*)"', self.rest) or ["", ""])[1]

    @property
    def cycles(self) -> int:
        """The cycles that the compiler expects it to take; 0 where it does not say."""
        return int((re.search(r'"estimated_cycles":"(\d+)"', self.rest) or ["", "0"])[1])


class Module(NamedTuple):
    """A compiled program: the instructions of each computation, and the computation where it starts."""

    computations: dict[str, list[Instruction]]
    entry: str


def parse(text: str) -> Module:
    """Read the text of a compiled program, as `jax.stages.Compiled.as_text` gives it."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (found := _LINE.match(line)):
            computations[current].append(_instruction(found[1], found[2]))
    return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, text = text[:end], text[end:].lstrip()
    opcode, start = text[: text.index("(")], text.index("(")
    stop = _closing(text, start)
    operands = tuple(re.findall(r"%([\w.\-]+)", text[start : stop + 1]))
    arrays = []
    for dtype, dims, order, tiles in _ARRAY.findall(kind):
        numbers = lambda values: tuple(int(x) for x in values.split(",") if x)
        arrays.append(Array(dtype, numbers(dims), numbers(order), tiles or ""))
    return Instruction(name, tuple(arrays), opcode, operands, text[start + 1 : stop], text[stop + 1 :])


def _closing(text: str, start: int) -> int:
    """The place of the bracket that closes the one at ``start``."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text) - 1


def rounds_of(module: Module, loop: Instruction) -> int | None:
    """How often a loop runs whose length is known, or that counts from zero to a constant; None for any other."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    inside = module.computations[str(loop.attribute("condition"))]
    here, last = {one.name: one for one in inside}, inside[-1]
    if last.opcode != "compare" or "direction=LT" not in last.rest:
        return None
    limit = here.get(last.operands[1])
    return int(limit.value) if limit is not None and limit.opcode == "constant" else None


def scheduled(module: Module, unknown: int = 1) -> Iterator[tuple[Instruction, int, dict[str, Instruction]]]:
    """Every instruction that the program executes by itself, how often, and those of its computation by name.

    The instructions inside of a fusion belong to it. Of the branches of a condition all are taken to run, and loops
    whose length is not known ``unknown`` times.
    """
    waiting = [(module.entry, 1)]
    while waiting:
        name, times = waiting.pop()
        here = {one.name: one for one in module.computations[name]}
        for one in here.values():
            yield one, times, here
            if one.opcode == "while":
                waiting.append((str(one.attribute("body")), times * (rounds_of(module, one) or unknown)))
            elif one.opcode in ("call", "async-start"):
                called = one.attribute("to_apply") or one.attribute("calls")
                waiting += [(called, times)] if called else []
            elif one.opcode == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
                names = re.findall(r"%([\w.\-]+)", branches[1]) if branches else []
                names += [one.attribute(kind) for kind in ("true_computation", "false_computation")]
                waiting += [(branch, times) for branch in names if branch]


def products(module: Module, unknown: int = 1) -> Iterator[tuple[str, int, Instruction, int]]:
    """The convolutions and matrix products: (precision, operations of one run, the instruction, how often it runs).

    The precision is "bfloat16" for one pass of bfloat16 numbers on the matrix unit, which is what float32 operands get
    by default, or "float32 high" or "float32 highest", which take several.
    """
    for outer, times, here in scheduled(module, unknown):
        called = outer.attribute("calls") if outer.opcode == "fusion" else None
        inside = _nested(module, called) if called else [(outer, here)]
        for one, beside in inside:
            if one.opcode in ("convolution", "dot"):
                yield _precision(one, beside), _operations(one, beside), outer, times


def _nested(module: Module, name: str) -> Iterator[tuple[Instruction, dict[str, Instruction]]]:
    """The instructions of a fused computation and of those that it calls."""
    here = {one.name: one for one in module.computations[name]}
    for one in here.values():
        yield one, here
        if one.opcode == "fusion" and (called := one.attribute("calls")):
            yield from _nested(module, called)


def _precision(one: Instruction, here: dict[str, Instruction]) -> str:
    kinds = {here[name].arrays[0].dtype for name in one.operands if name in here}
    asked = re.search(r"operand_precision=\{(\w+),(\w+)\}", one.rest)
    # Of numbers that were rounded to bfloat16 before, further passes are all zero, and the compiler leaves them out.
    if asked and kinds == {"f32"} and asked[1] in PASSES:
        return f"float32 {asked[1]}"
    return "bfloat16"


def _operations(one: Instruction, here: dict[str, Instruction]) -> int:
    """Twice the multiply-adds; zeros of the padding and between dilated elements are not counted."""
    left, right = (here[name].arrays[0].dims for name in one.operands[:2])
    if one.opcode == "dot":
        axes = [int(k) for k in (one.attribute("lhs_contracting_dims", r"\{([\d,]*)\}") or "").split(",") if k]
        return 2 * math.prod(one.arrays[0].dims) * math.prod(left[k] for k in axes)
    inputs, kernel, result = re.split("_|->", str(one.attribute("dim_labels", r"([\w>\-]+)")))
    window = _window(one.attribute("window", r"\{([^}]*)\}") or "")
    pairs = 2 * right[kernel.index("i")]
    for letter in "bf":
        pairs *= one.arrays[0].dims[result.index(letter)]
    for place, axis in enumerate(sorted(set(inputs) - set("bf"))):
        sides = left[inputs.index(axis)], right[kernel.index(axis)], one.arrays[0].dims[result.index(axis)]
        pairs *= _taps(*sides, **{name: values[place] for name, values in window.items() if values})
    return pairs


def _window(text: str) -> dict[str, list[int]]:
    """The stride, the padding before and the dilations of a window, one number for each spatial axis."""
    found = dict(part.split("=") for part in text.split())
    names = {"stride": "stride", "pad": "pad", "lhs_dilate": "spread", "rhs_dilate": "apart"}
    return {names[key]: [int(x.split("_")[0]) for x in found[key].split("x")] for key in names if key in found}


def _taps(size: int, window: int, out: int, stride: int = 1, pad: int = 0, spread: int = 1, apart: int = 1) -> int:
    """The number of pairs of an output place and an element along one axis; zeros between and around are left out."""
    places = np.arange(out)[:, None] * stride + np.arange(window) * apart - pad
    return int(((places >= 0) & (places <= (size - 1) * spread) & (places % spread == 0)).sum())


class Figures(NamedTuple):
    """What a launch of a program does on one chip.

    Attributes:
      flops: operations of the products by precision.
      collectives: instructions that communicate with other chips, by kind.
      traffic: bytes that the instructions read from the main memory and write to it, padding included.
      waste: the share of the bytes of all results that is padding, by how often they are written.
      copies: the number of copies and transposes, and their bytes.
      cycles: what the compiler expects of all instructions together.
      unknown_loops: loops whose length is not known.
    """

    flops: dict[str, int]
    collectives: dict[str, int]
    traffic: int
    waste: float
    copies: tuple[int, int]
    cycles: int
    unknown_loops: int

    @property
    def share_bfloat16(self) -> float:
        """The share of the operations that take one pass on the matrix unit."""
        return self.flops.get("bfloat16", 0) / max(1, sum(self.flops.values()))

    @property
    def passes(self) -> int:
        """Operations on the matrix unit, where a float32 product counts once for each pass."""
        return sum(count * PASSES.get(kind.removeprefix("float32 "), 1) for kind, count in self.flops.items())


def figures(module: Module, unknown: int = 1) -> Figures:
    """Count what a program does, whose loops of unknown length run ``unknown`` times."""
    flops: Counter[str] = Counter()
    for precision, operations, _, times in products(module, unknown):
        flops[precision] += operations * times
    collectives: Counter[str] = Counter()
    traffic = size = padded = copies = copied = cycles = endless = 0
    for one, times, here in scheduled(module, unknown):
        kind = one.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            collectives[kind] += times
        endless += one.opcode == "while" and rounds_of(module, one) is None
        if one.opcode in _FREE or one.opcode in ("while", "call", "conditional") or one.opcode.endswith("-done"):
            continue
        cycles += times * one.cycles
        results = one.arrays[:1] if one.opcode.endswith("-start") else one.arrays
        size += times * sum(array.size for array in results)
        padded += times * sum(array.padded for array in results)
        read = [array for name in one.operands if name in here for array in here[name].arrays[:1]]
        traffic += times * sum(array.padded for array in (*read, *results) if array.in_hbm)
        if one.opcode in ("copy", "transpose"):
            copies += times
            copied += times * sum(array.padded for array in results)
    waste = 1 - size / padded if padded else 0.0
    return Figures(dict(flops), dict(collectives), traffic, waste, (copies, copied), cycles, endless)


def costly(module: Module, count: int = 12) -> list[tuple[int, int, str, str]]:
    """The instructions that the compiler expects to take longest: (cycles in all, runs, opcode and result, source)."""
    lines = []
    for one, times, _ in scheduled(module):
        shapes = " ".join(f"{a.dtype}{list(a.dims)}{'' if a.in_hbm else '*'}" for a in one.arrays[:2])
        lines.append((times * one.cycles, times, f"{one.opcode} {shapes}", one.source))
    return sorted(lines, reverse=True)[:count]
