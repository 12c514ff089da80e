"""A pickle interpreter that cannot run anything: it knows data, not classes.

Whatever a pickle names stays a `Global`, a pair of strings; whatever it asks to call becomes a
`Foreign`, a record of the request. Nothing is imported, no attribute is looked up, no method of an
object from the file is called. Opcodes: the table of CPython's `pickletools` module. A few calls
that torch's own files need are interpreted by the caller's `call`.

Guards against files made to exhaust memory or time: the memo is a dictionary (an opcode may
address slot 2³²), only strings, bytes, numbers and None become dictionary keys (a tuple of shared
tuples takes exponential time to hash), sets are kept as lists, and opcodes are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

MAX_OPCODES = 5_000_000
"""About thirty a tensor: room for 160,000 tensors, and less than 500 MB of empty lists."""


class Global(NamedTuple):
    """A class or function the pickle names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Foreign:
    """An object the pickle wants built by `factory`: its arguments, state and items, unused."""

    factory: Any
    arguments: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    mapping: dict[Any, Any] = field(default_factory=dict)


class Buffer(Protocol):
    """`bytes` or a memory map."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def find(self, sub: bytes, start: int = ..., /) -> int: ...


Call = Callable[[Any, Any], Any]
PersistentLoad = Callable[[Any], Any]
_ATOMS = (str, bytes, int, float, bool, type(None))


def load(
    data: Buffer, call: Call, persistent_load: PersistentLoad, start: int = 0
) -> tuple[Any, int]:
    """What the pickle at `data[start:]` describes, and the position after it.

    `call(function, arguments)` interprets REDUCE and its relatives, `persistent_load(identifier)`
    external data. Raises ValueError, whose text says why, for anything that is not a valid pickle,
    for extension and out-of-band opcodes, and beyond `MAX_OPCODES`.
    """
    machine = _Machine(data, start, call, persistent_load)
    try:
        return machine.run(), machine.position
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"not a valid pickle near byte {machine.position}: {reason}") from None


class _Stop(Exception):
    """The STOP opcode."""


class _Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(
        self, data: Buffer, start: int, call: Call, persistent_load: PersistentLoad
    ) -> None:
        self.data = data
        self.position = start
        self.call = call
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, operations = self.data, _OPERATIONS
        try:
            for _ in range(MAX_OPCODES):
                opcode = data[self.position]
                self.position += 1
                operation = operations.get(opcode)
                if operation is None:
                    raise ValueError(f"opcode {opcode:#04x} is not allowed")
                operation(self)
        except _Stop:
            return self.stack.pop()
        raise ValueError(f"more than {MAX_OPCODES} opcodes")

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise ValueError("the data end early")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("the data end early")
        taken = self.data[self.position : end]
        self.position = end + 1
        return taken

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def pack(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("the stack is too short")
        split = len(self.stack) - count
        self.stack[split:] = [tuple(self.stack[split:])]

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise ValueError("items for something that is not a list")

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target = target.mapping
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("entries for something that is not a dictionary")
        store(target, items)

    def dictionary(self) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.update(items)

    def global_name(self) -> None:
        module, name = self.line().decode(), self.line().decode()
        self.stack.append(Global(module, name))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a class whose name is not a string")
        self.stack.append(Global(module, name))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, arguments))

    def new_object_with_keywords(self) -> None:
        keywords, arguments, factory = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(Foreign(factory, (arguments, keywords)))

    def instance(self) -> None:
        self.global_name()
        factory = self.stack.pop()
        self.stack.append(Foreign(factory, tuple(self.since_mark())))

    def build_object(self) -> None:
        factory, *arguments = self.since_mark()
        self.stack.append(Foreign(factory, tuple(arguments)))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(target := self.stack[-1], Foreign):
            target.state = state

    def put(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]

    def integer_line(self) -> None:
        digits = self.line().rstrip(b"L")
        self.stack.append(digits == b"01" if digits in (b"00", b"01") else int(digits))

    def python2_string(self, text: bytes) -> None:
        self.stack.append(text.decode("utf-8", "replace"))

    def stop(self) -> None:
        raise _Stop


def store(target: dict[Any, Any], items: list[Any]) -> None:
    """Put alternating keys and values into `target`; a key that is not plain gets a stand-in."""
    for index in range(0, len(items), 2):
        key = items[index]
        if type(key) not in _ATOMS:
            key = f"<key {len(target)}>"
        target[key] = items[index + 1]


_OPERATIONS: dict[int, Callable[[_Machine], Any]] = {
    ord(opcode): operation
    for opcode, operation in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME
        ".": _Machine.stop,
        "0": _Machine.pop,
        "1": _Machine.since_mark,  # POP_MARK
        "2": lambda m: m.push(m.stack[-1]),  # DUP
        "(": _Machine.mark,
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": _Machine.integer_line,
        "L": _Machine.integer_line,
        "J": lambda m: m.push(m.signed(4)),
        "K": lambda m: m.push(m.byte()),
        "M": lambda m: m.push(m.number(2)),
        "\x8a": lambda m: m.push(m.signed(m.byte())),
        "\x8b": lambda m: m.push(m.signed(m.number(4))),
        "F": lambda m: m.push(float(m.line())),
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        "S": lambda m: m.python2_string(m.line().strip(b"\"'")),
        "T": lambda m: m.python2_string(m.take(m.number(4))),
        "U": lambda m: m.python2_string(m.take(m.byte())),
        "V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        "X": lambda m: m.push(m.take(m.number(4)).decode()),
        "\x8c": lambda m: m.push(m.take(m.byte()).decode()),
        "\x8d": lambda m: m.push(m.take(m.number(8)).decode()),
        "B": lambda m: m.push(m.take(m.number(4))),
        "C": lambda m: m.push(m.take(m.byte())),
        "\x8e": lambda m: m.push(m.take(m.number(8))),
        "\x96": lambda m: m.push(m.take(m.number(8))),  # BYTEARRAY8
        "]": lambda m: m.push([]),
        ")": lambda m: m.push(()),
        "}": lambda m: m.push({}),
        "\x8f": lambda m: m.push([]),  # EMPTY_SET
        "l": lambda m: m.push(m.since_mark()),
        "\x91": lambda m: m.push(m.since_mark()),  # FROZENSET
        "t": lambda m: m.push(tuple(m.since_mark())),
        "d": _Machine.dictionary,
        "\x85": lambda m: m.pack(1),
        "\x86": lambda m: m.pack(2),
        "\x87": lambda m: m.pack(3),
        "a": lambda m: m.extend([m.stack.pop()]),
        "e": lambda m: m.extend(m.since_mark()),
        "\x90": lambda m: m.extend(m.since_mark()),  # ADDITEMS
        "s": lambda m: m.update([m.stack.pop(-2), m.stack.pop()]),
        "u": lambda m: m.update(m.since_mark()),
        "c": _Machine.global_name,
        "\x93": _Machine.stack_global,
        "R": _Machine.reduce,
        "\x81": _Machine.reduce,  # NEWOBJ
        "\x92": _Machine.new_object_with_keywords,
        "i": _Machine.instance,
        "o": _Machine.build_object,
        "b": _Machine.build,
        "p": lambda m: m.put(int(m.line())),
        "q": lambda m: m.put(m.byte()),
        "r": lambda m: m.put(m.number(4)),
        "\x94": lambda m: m.put(len(m.memo)),
        "g": lambda m: m.push(m.memo[int(m.line())]),
        "h": lambda m: m.push(m.memo[m.byte()]),
        "j": lambda m: m.push(m.memo[m.number(4)]),
        "P": lambda m: m.push(m.persistent_load(m.line().decode())),
        "Q": lambda m: m.push(m.persistent_load(m.stack.pop())),
    }.items()
}  # fmt: skip
