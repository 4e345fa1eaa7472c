"""What a service, or one instance of it, can read: conditions on the labels of releases.

    format<=4                            of every channel that it reads
    places:format<=4 ranks:schema=ltr    of single ones, by alias; terms are separated by blanks
    format>=3,format<=4                  all conditions of a term must hold

A condition is LABEL, one of `=` `!=` `<` `<=` `>` `>=`, VALUE. Numbers such as 4 or 1.10 are compared as
numbers, part by part; `<`, `<=`, `>` and `>=` hold between numbers only. A release that lacks the label
fulfils nothing but `!=`: what is not said of a format cannot be read.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import dropwhile
from typing import Any, NamedTuple, Self

from handlers.core.errors import Usage
from handlers.core.names import check_alias

_LABEL = r"\w[\w./-]*"
_CONDITION = re.compile(rf"(?P<label>{_LABEL})(?P<how><=|>=|!=|=|<|>)(?P<value>\w[\w.+-]*)", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)*", re.ASCII)
_HOW: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def check_label(name: object) -> str:
    """The name of a label that conditions can ask for; raises `Usage` for any other."""
    if not isinstance(name, str) or not re.fullmatch(_LABEL, name, re.ASCII):
        raise Usage(f"{name!r} is no name of a label: use letters, digits and . _ / - behind one of them")
    return name


class _Condition(NamedTuple):
    label: str
    how: str
    value: str

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether a release with these labels fulfils it."""
        found = labels.get(self.label)
        if found is None:
            return self.how == "!="
        is_, wanted = _number(found), _number(self.value)
        if is_ is not None and wanted is not None:
            return _HOW[self.how](is_, wanted)
        return self.how in ("=", "!=") and _HOW[self.how](found, self.value)


class Reads(str):
    """The text of such conditions, with single blanks; empty = everything can be read."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check `text`; raises `Usage` that names the wrong part."""
        words = text.split()
        for word in words:
            alias, conditions = _term(word)
            if alias is not None:
                check_alias(alias)
            for part in conditions.split(","):
                _condition(word, part)
        return cls(" ".join(words))

    @property
    def aliases(self) -> set[str]:
        """The aliases that it names."""
        return {alias for word in self.split() if (alias := _term(word)[0]) is not None}

    def misfit(self, alias: str, labels: Mapping[str, str]) -> str:
        """Why a release with these labels cannot be read under the alias; empty when it can."""
        for word, condition in self._conditions(alias):
            if not condition.holds(labels):
                found = labels.get(condition.label)
                has = f"no label {condition.label}" if found is None else f"{condition.label}={found}"
                return f"has {has}, and only {word} is read"
        return ""

    def _conditions(self, alias: str) -> Iterator[tuple[str, _Condition]]:
        for word in self.split():
            of, conditions = _term(word)
            if of in (None, alias):
                yield from ((conditions, _condition(word, part)) for part in conditions.split(","))


EVERYTHING = Reads("")


def _term(word: str) -> tuple[str | None, str]:
    """The alias of a term, None where it has none, and its conditions."""
    alias, colon, conditions = word.partition(":")
    return (alias, conditions) if colon else (None, word)


def _condition(word: str, part: str) -> _Condition:
    found = _CONDITION.fullmatch(part)
    if found is None:
        raise Usage(
            f"{word!r} does not say what is read: use LABEL<=VALUE (or = != < > >=), as in format<=4, "
            "several joined by commas, and ALIAS: before them where they are for one channel"
        )
    condition = _Condition(found["label"], found["how"], found["value"])
    if condition.how not in ("=", "!=") and _number(condition.value) is None:
        raise Usage(f"{word!r} does not say what is read: {condition.how} compares numbers such as 4 or 1.10")
    return condition


def _number(text: str) -> tuple[int, ...] | None:
    """`1.10` as (1, 10), `2.0` as (2,); None where it is no number."""
    if not _NUMBER.fullmatch(text):
        return None
    return tuple(reversed([*dropwhile(lambda part: part == 0, reversed([*map(int, text.split("."))]))]))
