"""Nodes by their labels, as a subscription's `nodes` names them: `pool=search,zone!=b`, or `*` for all.

All terms must hold. A label that a node does not have is an empty one, so `zone!=b` holds on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from handlers.core.errors import Usage

EVERY = "*"
_TERM = re.compile(
    r"(?P<label>[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?)(?P<not>!?)=(?P<value>[A-Za-z0-9._-]*)"
)


class Term(Struct, frozen=True):
    """The label has this value; or not, where not `wanted`."""

    label: str
    value: str
    wanted: bool

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether it holds on a node with these labels."""
        return (labels.get(self.label, "") == self.value) is self.wanted


class Selector(Struct, frozen=True):
    """All of the terms; without any, every node."""

    terms: tuple[Term, ...] = ()

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is selected."""
        return all(term.takes(labels) for term in self.terms)


def parse_nodes(text: str) -> Selector | None:
    """The selector in `text`; None where it is empty, which selects no node. Raises `Usage`."""
    if not text.strip():
        return None
    if text.strip() == EVERY:
        return Selector()
    return Selector(tuple(map(_term, text.split(","))))


def selects(text: str, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is selected; none is by a text that makes no sense."""
    try:
        selector = parse_nodes(text)
    except Usage:
        return False
    return selector is not None and selector.takes(labels)


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text.strip())
    if not found:
        raise Usage(f"nodes: {text.strip()!r} is none of LABEL=VALUE, LABEL!=VALUE, {EVERY}")
    return Term(found["label"], found["value"], not found["not"])
