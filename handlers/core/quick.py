"""`@dataclass(frozen=True)`, made in a third of the time.

A handler starts anew for every change, and makes seventy such classes before it does anything: with the
standard decorator half a millisecond each, most of it for compiling six methods per class. Here only
`__init__` is compiled, and all classes share the others. In all else these are dataclasses: for `replace`,
`fields`, `asdict`, and for type checkers, which see the standard decorator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

_put = object.__setattr__

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen, kw_only=False, slots=False):
        """`dataclasses.dataclass` for frozen classes; their bases must be made here as well."""
        if not frozen:
            raise TypeError("classes whose values change are made by the standard decorator")
        bare = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only, slots=slots)
        return lambda cls: _completed(bare(cls), kw_only)


def _completed(cls: Any, kw_only: bool) -> Any:
    """Add what the standard decorator was asked to leave out; methods of the class's own stay."""
    fields = dataclasses.fields(cls)
    if hasattr(cls, "__post_init__") or not all(
        f.init and f.compare and f.kw_only is kw_only for f in fields
    ):
        raise TypeError(f"{cls.__name__} has what only the standard decorator knows")
    shared = {
        "__init__": _init(fields, kw_only),
        "__repr__": _repr,
        "__eq__": _equal,
        "__hash__": _hash,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__getstate__": _state,
        "__setstate__": _restore,
    }
    for name, method in shared.items():
        if name not in vars(cls):
            setattr(cls, name, method)
    cls.__values__ = staticmethod(attrgetter(*(field.name for field in fields)) if fields else lambda _: ())
    return cls


def _init(fields: Sequence[dataclasses.Field[Any]], kw_only: bool) -> Any:
    """An `__init__` for these fields, compiled: one that loops over them would slow down every instance."""
    names: dict[str, Any] = {"__put": _put, "__new": object()}
    words, lines = ["self", *(["*"] if kw_only and fields else [])], ["pass"]
    for field in fields:
        name = field.name
        if field.default is not dataclasses.MISSING:
            names[f"__default_{name}"] = field.default
            words.append(f"{name}=__default_{name}")
        elif field.default_factory is not dataclasses.MISSING:
            names[f"__make_{name}"] = field.default_factory
            words.append(f"{name}=__new")
            lines.append(f"if {name} is __new: {name} = __make_{name}()")
        else:
            words.append(name)
        lines.append(f"__put(self, {name!r}, {name})")
    source = f"def __init__({', '.join(words)}):\n " + "\n ".join(lines)
    exec(source, names)  # noqa: S102 - made of the names of fields only
    return names["__init__"]


def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _equal(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return self.__values__(self) == other.__values__(other)


def _hash(self: Any) -> int:
    return hash(self.__values__(self))


def _refuse(self: Any, name: str, *_value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")


def _state(self: Any) -> dict[str, Any]:
    """What `copy` and `pickle` take along; by default they would assign it."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _restore(self: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        _put(self, name, value)
