"""A pickle read as data: what it describes is rebuilt from numbers, strings, lists and dicts; nothing in it is looked up or called."""

from dataclasses import dataclass
import pickletools
from typing import Any

from ..errors import DataError

# What numpy writes for an array and a dtype, under the names of Python 2's numpy and today's. They are only compared, never imported.
KNOWN = {f"numpy.{core}.multiarray _reconstruct": "_reconstruct" for core in ("core", "_core")}
KNOWN |= {"numpy ndarray": "ndarray", "numpy dtype": "dtype", "_codecs encode": "encode"}


@dataclass(eq=False)
class Call:
    """A call that the pickle asks for, and the state it would set: not made."""

    function: str
    arguments: tuple
    state: Any = None

    __match_args__ = ("function", "arguments", "state")


@dataclass(frozen=True)
class _Name:
    function: str


_MARK = object()


def read_pickle(data: bytes, name: str) -> Any:
    """The value in a pickle of protocol 2 or 3, numpy's arrays as Calls; strings of Python 2 are str, one character a byte.

    Raises DataError naming `name` for another protocol, a function that is not numpy's for arrays, an opcode beyond these, or damage.
    """
    stack, memo = [], {}
    try:
        for op, argument, _ in pickletools.genops(data):  # splits the bytes into opcodes; executes none
            if op.name == "PROTO" and argument not in (2, 3):
                raise DataError(f"{name}: a pickle of protocol {argument}; wanted 2 or 3, or the binary version")
            if op.name == "GLOBAL" and argument not in KNOWN:
                raise DataError(f"{name}: a pickle that asks for {argument.replace(' ', '.')}; wanted arrays and lists alone")
            _step(op.name, argument, stack, memo)
        (value,) = stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f"{name}: {len(data)} bytes that are no such pickle as is wanted ({error})") from error
    return value


def _step(op: str, argument: Any, stack: list, memo: dict) -> None:
    match op:
        case "PROTO" | "STOP":
            pass
        case "MARK":
            stack.append(_MARK)
        case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[op]())
        case "NONE" | "NEWTRUE" | "NEWFALSE":
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op])
        case "BININT" | "BININT1" | "BININT2" | "BINSTRING" | "SHORT_BINSTRING" | "BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
            stack.append(argument)
        case "GLOBAL":
            stack.append(_Name(KNOWN[argument]))
        case "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(tuple(_pop(stack, int(op[-1]))))
        case "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        case "APPEND" | "APPENDS":
            values = _pop(stack, 1) if op == "APPEND" else _pop_to_mark(stack)
            stack[-1].extend(values)
        case "SETITEM" | "SETITEMS":
            values = _pop(stack, 2) if op == "SETITEM" else _pop_to_mark(stack)
            if any(isinstance(key, tuple) for key in values[::2]):  # of tuples of tuples of …: it may take for ever to hash
                raise ValueError("a tuple as a key")
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        case "REDUCE":
            function, arguments = _pop(stack, 2)
            # Python 3 writes bytes in protocol 2 as encode('...', 'latin1').
            stack.append(arguments[0].encode("latin-1") if function.function == "encode" else Call(function.function, arguments))
        case "BUILD":
            (state,) = _pop(stack, 1)
            stack[-1].state = state
        case _:
            raise ValueError(f"opcode {op}")


def _pop(stack: list, count: int) -> list:
    values = stack[-count:]
    if len(values) < count or _MARK in values:
        raise ValueError("its stack is empty")
    del stack[-count:]
    return values


def _pop_to_mark(stack: list) -> list:
    at = len(stack) - 1 - stack[::-1].index(_MARK)
    values = stack[at + 1 :]
    del stack[at:]
    return values
