"""Changing documents from the command line: read, decide, write all or nothing, and leave a trace.

Every write carries the ModifyIndex of what was read, and the audit entry is part of the same transaction:
there is no change without a trace, and no trace without a change.
"""

from __future__ import annotations

import uuid
from typing import TypeVar

from handlers.adapters.ports import KV, Cas, CheckIndex, DeleteCas, Entry, Op
from handlers.core import codec, keys
from handlers.core.errors import Conflict, Usage
from handlers.core.model import Audit, Doc, Meta, Note
from handlers.core.names import Channel
from handlers.core.version import Version
from handlers.core.world import ChannelFacts
from hydra_cli.context import Context

D = TypeVar("D", bound=Doc)


class Edit:
    """One change to Consul's KV, made of writes to keys that were read before."""

    def __init__(self, context: Context, kv: KV) -> None:
        self._context = context
        self._kv = kv
        self._read: dict[str, Entry | None] = {}
        self._ops: dict[str, Op] = {}

    def read(self, key: str) -> Entry | None:
        """The key as it is now; what is written later depends on it."""
        if key not in self._read:
            self._read[key], _ = self._kv.get(key)
        return self._read[key]

    def write(self, key: str, value: bytes) -> bool:
        """Write the key, unless it has this value already: whether it changes."""
        there = self.read(key)
        if there and there.value == value:
            self.hold(key)
            return False
        self._ops[key] = Cas(key, value, self._index(key))
        return True

    def delete(self, key: str) -> bool:
        """Delete the key: whether it was there."""
        if self.read(key) is None:
            return False
        self._ops[key] = DeleteCas(key, self._index(key))
        return True

    def hold(self, key: str) -> None:
        """Let the change fail when the key, which is only read, is another one by then."""
        self.read(key)
        self._ops.setdefault(key, CheckIndex(key, self._index(key)))

    def commit(self, obj: str, action: str, *, before: str = "", after: str = "", why: str = "") -> None:
        """Write everything and one audit entry for `obj`; raises `Conflict` when somebody was faster."""
        if any(isinstance(op, (Cas, DeleteCas)) for op in self._ops.values()):
            entry = audit(self._context, obj, action, before=before, after=after, why=why)
            try:
                self._kv.txn([*self._ops.values(), entry])
            except Conflict as e:
                raise Conflict(
                    f"somebody else changed {obj} meanwhile; look and run it again ({e})"
                ) from None

    def _index(self, key: str) -> int:
        entry = self._read[key]
        return entry.index if entry else 0


def audit(
    context: Context, obj: str, action: str, *, before: str = "", after: str = "", why: str = ""
) -> Cas:
    """The operation that writes one entry of the history of `obj`."""
    entry = Audit(
        object=obj, action=action, who=context.who, when=context.stamp(), before=before, after=after, why=why
    )
    key = keys.audit(obj, Version.of(context.now()), uuid.uuid4().hex[:8])
    return Cas(key, codec.encode(entry), 0)


def note(context: Context, why: str) -> Note:
    """Who does something now, and why."""
    return Note(who=context.who, when=context.stamp(), why=why)


def require_environment(kv: KV, env: str) -> Entry:
    """The `meta` document of a KV that serves `env`; raises `Usage` when it serves others or none."""
    entry, _ = kv.get(keys.META)
    if entry is None:
        raise Usage(f"this Consul has no Hydra yet ({keys.META} is missing): run `hydra init --env {env}`")
    served = codec.decode(Meta, entry.value, keys.META).environments
    if env not in served:
        raise Usage(f"unknown environment {env!r}: this Consul serves {', '.join(served) or 'none yet'}")
    return entry


def document(edit: Edit, cls: type[D], key: str) -> D | None:
    """The document at `key` as read for this change; None when there is none. Raises `Malformed`."""
    entry = edit.read(key)
    return codec.decode(cls, entry.value, key) if entry else None


def require_channel(kv: KV, channel: Channel) -> ChannelFacts:
    """The channel with all its releases; raises `Usage` when it does not exist or is deleted."""
    from handlers.adapters.snapshot import load

    folders = (keys.channel(channel), keys.releases(channel))
    facts = load(kv, *folders).channels.get(channel)
    if facts is None:
        raise Usage(f"there is no channel {channel}: `hydra channel list` shows what there is")
    if facts.deleted:
        raise Usage(f"channel {channel} is deleted; `hydra channel set {channel} --restore` brings it back")
    return facts


def require_release(facts: ChannelFacts, version: Version) -> None:
    """Raise `Usage` unless the channel has this release."""
    if version not in facts.by_version:
        newest = ", ".join(r.version for r in reversed(facts.releases[-3:]))
        raise Usage(f"{facts.name} has no release {version}; the newest are {newest or 'none'}")
