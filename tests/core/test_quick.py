"""Quick dataclasses are what the standard decorator makes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest

from handlers.core.quick import dataclass

_STANDARD, _QUICK = "standard", "quick"


def made(how: str, **options: bool) -> Any:
    """The decorator to compare: the standard one, or ours."""
    if how == _STANDARD:
        return dataclasses.dataclass(frozen=True, **options)
    return dataclass(frozen=True, **options)


def point(how: str, **options: bool) -> Any:
    @made(how, **options)
    class Point:
        x: int
        y: int = 2
        names: Mapping[str, int] = field(default_factory=dict)

    return Point


@pytest.fixture(params=[_STANDARD, _QUICK])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("options", [{}, {"kw_only": True}, {"slots": True}])
def test_values_compare_print_and_copy_alike(how: str, options: dict[str, bool]) -> None:
    cls = point(how, **options)
    one = cls(x=1)

    assert (one.x, one.y, one.names) == (1, 2, {})
    assert one == cls(x=1, y=2, names={})
    assert one != cls(x=2)
    assert one != point(how, **options)(x=1)
    assert repr(one).endswith("Point(x=1, y=2, names={})")
    assert dataclasses.replace(one, y=5) == cls(x=1, y=5)
    assert dataclasses.asdict(one) == {"x": 1, "y": 2, "names": {}}
    assert one.names is not cls(x=1).names


def test_arguments_are_checked_as_usual(how: str) -> None:
    positional, by_name = point(how), point(how, kw_only=True)

    assert positional(1, 3) == positional(x=1, y=3)
    wrong = [(positional, (), {}), (positional, (1,), {"z": 1}), (by_name, (1,), {}), (by_name, (), {})]
    for cls, given, named in wrong:
        with pytest.raises(TypeError):
            cls(*given, **named)
    assert list(inspect.signature(by_name).parameters) == ["x", "y", "names"]


@pytest.mark.parametrize("slots", [False, True])
def test_values_do_not_change(how: str, slots: bool) -> None:
    one = point(how, slots=slots)(1)

    with pytest.raises(FrozenInstanceError):
        one.x = 2
    with pytest.raises(FrozenInstanceError):
        del one.x
    assert one.x == 1


def test_equal_values_have_equal_hashes(how: str) -> None:
    @made(how)
    class Pair:
        a: str
        b: tuple[int, ...] = ()

    pair: Any = Pair
    assert len({pair("a", (1,)), pair("a", (1,)), pair("b", (1,))}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(point(how)(1))


def test_class_without_fields_has_one_value(how: str) -> None:
    @made(how)
    class Nothing:
        pass

    assert Nothing() == Nothing()
    assert len({Nothing(), Nothing()}) == 1


def test_own_methods_and_inherited_fields_stay(how: str) -> None:
    class Base:
        extra: int = 0

    base = made(how, kw_only=True)(Base)

    class Secret(base):  # type: ignore[misc, valid-type]  # made by the decorator that is tried
        token: str

        def __repr__(self) -> str:
            return "Secret"

    secret = made(how, kw_only=True)(Secret)
    assert repr(secret(token="t", extra=1)) == "Secret"
    assert [f.name for f in dataclasses.fields(secret)] == ["extra", "token"]
    assert secret(token="t") != base()


@dataclass(frozen=True, slots=True)
class Slotted:
    """Here, where pickle finds it."""

    x: int


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Here, where pickle finds it."""

    x: int


@pytest.mark.parametrize("one", [Slotted(3), Plain(x=3)])
def test_values_are_copied_and_pickled(one: Any) -> None:
    assert pickle.loads(pickle.dumps(one)) == copy.copy(one) == copy.deepcopy(one) == one


def test_what_only_the_standard_decorator_knows_is_refused() -> None:
    unfrozen: Any = dataclass
    with pytest.raises(TypeError, match="standard decorator"):
        unfrozen(frozen=False)
    with pytest.raises(TypeError, match="standard decorator"):

        @dataclass(frozen=True)
        class Uncompared:
            x: int = field(compare=False)
