"""Reads Consul's KV into one `World`: what a run of plan or retain, or a command, then works from."""

from __future__ import annotations

from collections.abc import Mapping

from handlers.adapters.ports import KV, Entry
from handlers.core import keys
from handlers.core.entries import read
from handlers.core.world import World

# A head before the releases, a subscription before the channels: what is announced last is read first, so
# that nothing seems to name what does not exist just because it appeared between two reads.
PLANNED = (
    keys.SERVICES,
    keys.CHANNELS,
    keys.RELEASES,
    keys.VERDICTS,
    keys.PROVEN,
    keys.ROLLOUTS,
    keys.NODES,
    keys.STATES,
    keys.ACTUAL,
    keys.DESIRED,
)
EVERYTHING = (*PLANNED, keys.SLOTS, keys.PROGRESS, keys.GATES)


def load(kv: KV, *prefixes: str) -> World:
    """The documents below `prefixes` (of `keys`; default: all that plan needs), with `meta` and `alarms`.

    `indexes` of the world holds the ModifyIndex of each key. What lies below other prefixes looks absent:
    name all that the question depends on, in the order of `EVERYTHING`.
    """
    return world_of(take(kv, *prefixes))


def take(kv: KV, *prefixes: str) -> dict[str, Entry]:
    """The keys that `load` reads, as they are."""
    entries = {key: entry for prefix in prefixes or PLANNED for key, entry in kv.list(prefix).entries.items()}
    for key in (keys.ALARMS, keys.META):
        entry, _ = kv.get(key)
        if entry is not None:
            entries[key] = entry
    return entries


def world_of(entries: Mapping[str, Entry]) -> World:
    """What these keys say."""
    return read(
        {key: entry.value for key, entry in entries.items()},
        {key: entry.index for key, entry in entries.items()},
    )
