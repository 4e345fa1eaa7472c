"""Nodes by their labels."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from handlers.core.errors import Usage
from handlers.core.selector import parse_nodes, selects

SEARCH_B: Mapping[str, str] = {"pool": "search", "topology.kubernetes.io/zone": "b"}


@pytest.mark.parametrize(
    ("text", "takes"),
    [
        ("", False),
        ("*", True),
        ("pool=search", True),
        ("pool=maps", False),
        ("pool!=maps", True),
        ("pool = search", None),
        ("pool=search, topology.kubernetes.io/zone=b", True),
        ("pool=search,topology.kubernetes.io/zone=a", False),
        ("rack=", True),
        ("rack!=7", True),
        ("rack=7", False),
        ("pool", None),
        ("pool==search", None),
        ("pool=search,", None),
        ("*,pool=search", None),
    ],
)
def test_text_selects_nodes_or_is_refused_by_name(text: str, takes: bool | None) -> None:
    assert selects(text, SEARCH_B) is bool(takes)
    if takes is None:
        with pytest.raises(Usage, match="is none of LABEL=VALUE"):
            parse_nodes(text)
