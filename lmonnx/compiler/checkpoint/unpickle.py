"""The pickle instructions that torch.save writes → values; any other is refused before it acts.

Not `pickle.Unpickler` with a `find_class`: a deep tuple as a dict key ends the whole process in it,
without naming any global. This machine knows some thirty instructions, calls only what the caller's
table holds, and takes only text and integers as keys.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from lmonnx.errors import StageError

MAX_BYTES = 64 * 2**20
MAX_INSTRUCTIONS = 4_000_000  # about 40 a tensor: 100,000 tensors in one file

_REFUSAL = "which a weights file has no reason to; not opened: ask its author for safetensors"
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {
        "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
        "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING",
    }
)  # fmt: skip
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class Call:
    """Stand in for a function that a pickle may call.

    `build` gets the arguments as one tuple; it refuses them by a ValueError saying what they are.
    """

    name: str
    build: Callable[[tuple[Any, ...]], object]


class _Machine:
    def __init__(
        self,
        name: str,
        table: Mapping[str, object],
        persistent: Callable[[object], object],
    ) -> None:
        self.name = name
        self.table = table
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def known(self, code: bytes) -> pickletools.OpcodeInfo:
        if not code:
            raise IndexError("the pickle ends before it stops")
        if code not in _INSTRUCTIONS:
            raise StageError(f"{self.name} uses the pickle instruction {code!r}, {_REFUSAL}")
        return _INSTRUCTIONS[code]

    def step(self, instruction: str, operand: Any) -> None:
        if instruction in _LITERALS:
            self.stack.append(operand)
        elif instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction])
        elif instruction in _TUPLES:
            self.push_tuple(self.pop(_TUPLES[instruction]))
        else:
            _HANDLERS[instruction](self, operand)

    def refuse(self, what: str) -> StageError:
        return StageError(f"{self.name} {what}, {_REFUSAL}")

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError("an instruction takes more values than there are")
        rest = len(self.stack) - count
        taken = self.stack[rest:]
        del self.stack[rest:]
        return taken

    def pop_mark(self) -> list[Any]:
        taken = self.stack
        self.stack = self.marks.pop()
        return taken

    def push_tuple(self, values: list[Any]) -> None:
        self.stack.append(tuple(values))

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_global(self, name: str) -> None:
        if name not in self.table:
            raise StageError(f"{self.name} names {name!r:.100}, {_REFUSAL}")
        self.stack.append(self.table[name])

    def stack_global(self) -> None:
        module, name = self.pop(2)
        if type(module) is not str or type(name) is not str:
            raise self.refuse("names a global by something other than text")
        self.push_global(f"{module}.{name}")

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        if type(function) is not Call or type(arguments) is not tuple:
            raise self.refuse("calls something that is no function")
        try:
            self.stack.append(function.build(arguments))
        except ValueError as error:
            raise self.refuse(f"calls {function.name} with {error}") from error

    def build(self) -> None:
        target, _ = self.pop(2)
        # Only an OrderedDict carries state (`_metadata`), and no weight is in it.
        if type(target) is not dict:
            raise self.refuse("sets state on something other than a dict")
        self.stack.append(target)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        keys = items[::2]
        if (
            type(target) is not dict
            or len(items) % 2
            or any(type(k) not in (str, int) for k in keys)
        ):
            raise self.refuse("has a dict with keys that are neither text nor integers")
        target.update(zip(keys, items[1::2], strict=True))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise self.refuse("appends to something other than a list")
        target.extend(items)


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.mark(),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "TUPLE": lambda machine, _: machine.push_tuple(machine.pop_mark()),
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": lambda machine, name: machine.push_global(name),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.persistent(machine.pop(1)[0])),
}

# An instruction outside these is refused before even its operand is read.
_KNOWN = {"STOP", *_LITERALS, *_CONSTANTS, *_TUPLES, *_HANDLERS}
_INSTRUCTIONS = {
    opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes if opcode.name in _KNOWN
}


def _operand(instruction: pickletools.OpcodeInfo, data: BytesIO) -> Any:
    if instruction.name == "GLOBAL":
        # pickletools would take a backslash for an escape, and warn of it.
        return f"{_line(data)}.{_line(data)}"
    return instruction.arg.reader(data) if instruction.arg else None


def _line(data: BytesIO) -> str:
    line = data.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a name has no end")
    return line[:-1].decode()


def unpickle(
    data: BytesIO,
    name: str,
    *,
    table: Mapping[str, object],
    persistent: Callable[[object], object],
) -> object:
    """Return the one value that the pickle at `data`'s position builds, and leave it after it.

    Args:
        data: Pickles one after another; read from where it stands.
        name: What an error calls the file.
        table: What a global may mean, by `module.name`: a `Call`, or a value that is no function.
        persistent: Turns the operand of a persistent id into a value, or raises StageError.

    Raises:
        StageError: The pickle is damaged, too long, or does what torch.save's never do.
    """
    machine = _Machine(name, table, persistent)
    try:
        for _ in range(MAX_INSTRUCTIONS):
            instruction = machine.known(data.read(1))
            if instruction.name == "STOP":
                (value,) = machine.pop(1)
                return value
            machine.step(instruction.name, _operand(instruction, data))
    except (ValueError, IndexError, KeyError) as error:
        raise StageError(f"{name} holds a damaged pickle; download it again") from error
    raise StageError(f"{name} has over {MAX_INSTRUCTIONS:,} pickle instructions; not opened")
