"""Orders that were changed without a word: by `consul kv put`, in the Consul UI, by another program.

What Hydra's commands write has an audit entry in the same transaction, and so at the same ModifyIndex. A key
that changed at an index where its object has none was changed by hand. What was deleted has no index any
more: it counts as by hand when its object has no entry since the last look. Pure; asked by `record`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from handlers.core import codec, keys
from handlers.core.errors import Malformed
from handlers.core.model import Orders

FOLDERS = ("channels", "services", "nodes")
_NODE_ORDERS = frozenset({"registrations", "cordon", "forgotten"})
Audited = Callable[[str], Collection[int]]
"""The ModifyIndexes of all audit entries of an object."""


class ByHand(Struct, frozen=True):
    """One change: `before` and `after` are the versions that the key named, where it names one."""

    object: str
    key: str
    action: str
    before: str = ""
    after: str = ""


def orders(folder: str, entries: Mapping[str, tuple[int, bytes]]) -> Orders:
    """The orders below one folder as they are now; `entries`: index and bytes by key."""
    seen = {}
    for key, (index, raw) in sorted(entries.items()):
        name = key.removeprefix(keys.ROOT)
        if name.startswith(f"{folder}/") and is_order(name):
            seen[name] = f"{index} {_version(name, raw)}".strip()
    return Orders(seen=seen)


def is_order(name: str) -> bool:
    """Whether a key (below the version folder) is one that operators and publishers write."""
    parts = name.split("/")
    if parts[0] == "nodes":
        return len(parts) == 3 and parts[2] in _NODE_ORDERS
    return parts[0] in FOLDERS and len(parts) > 4


def object_of(name: str) -> str:
    """The object whose history tells of a key."""
    folder, *rest = name.split("/")
    return f"node/{rest[0]}" if folder == "nodes" else f"{folder[:-1]}/{'/'.join(rest[:3])}"


def went_back(before: Orders, now: Orders) -> bool:
    """Whether a key is older than it was seen: the KV was restored, and nothing can be said of changes."""
    return any(
        _index(now.seen[name]) < _index(text) for name, text in before.seen.items() if name in now.seen
    )


def by_hand(before: Orders, now: Orders, audited: Audited, since: int) -> list[ByHand]:
    """What changed from `before` to `now` without an audit entry; `since`: the index of the last look."""
    found = []
    for name in sorted({*before.seen, *now.seen}):
        old, new = before.seen.get(name, ""), now.seen.get(name, "")
        if old == new or (old and new and _index(old) == _index(new)):
            continue
        owner = object_of(name)
        indexes = audited(owner)
        explained = _index(new) in indexes if new else any(index > since for index in indexes)
        if not explained:
            action = "changed by hand" if old and new else "written by hand" if new else "deleted by hand"
            found.append(ByHand(owner, name, action, _named(old), _named(new)))
    return found


def _index(text: str) -> int:
    number = text.partition(" ")[0]
    return int(number) if number.isdecimal() else 0


def _named(text: str) -> str:
    return text.partition(" ")[2]


def _version(name: str, raw: bytes) -> str:
    last = name.rpartition("/")[2]
    try:
        if last == "head":
            return codec.decode_version(raw, name)
        if last == "pin" or "/pin/" in name:
            return codec.decode_pin(raw, name).version
    except Malformed:
        return "unreadable"
    return ""
