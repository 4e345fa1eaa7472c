"""`FakeUploads`: the publisher's side of `FakeObjects`.

It passes the same contract suite as the real one (`tests/contract/test_uploads.py`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from handlers.adapters.ports import Body, PartOf, Source
from handlers.adapters.send import crc64nvme
from handlers.core.errors import Conflict, SourceNotReady, Temporary
from handlers.core.stored import WHOLE, Stored
from tests.fakes_objects import FakeObjects


@dataclass
class FakeUploads:
    """`ports.Uploads` in memory. `facts`: what is known of an object beyond its size and ETag, by its source.

    `before` is called with the name of each operation and the source; it may raise, or change something.
    """

    objects: FakeObjects
    facts: dict[Source, Stored] = field(default_factory=dict)
    before: Callable[[str, Source], None] = lambda operation, source: None
    heads: list[Source] = field(default_factory=list)
    _begun: dict[Source, dict[str, dict[int, tuple[PartOf, bytes]]]] = field(default_factory=dict)
    _parts: dict[Source, list[int]] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def stored(self, source: Source) -> Stored:
        self.before("stored", source)
        self.heads.append(source)
        info = self.objects.head(source)
        known = self.facts.get(source)
        fresh = Stored(size=info.size, etag=info.etag)
        return known if known and (known.size, known.etag) == (fresh.size, fresh.etag) else fresh

    def part(self, source: Source, number: int) -> int:
        sizes = self._parts.get(source, [])
        return sizes[number - 1] if number <= len(sizes) else 0

    def write(self, source: Source, body: Body, crc: str, *, over: str | None = None) -> Stored:
        self.before("write", source)
        self._refuse(source, over)
        if crc64nvme(body) != crc:
            raise Temporary(f"{source}: other bytes arrived")
        info = self.objects.write(str(source), bytes(body))
        return self._keep(source, Stored(size=info.size, etag=info.etag), crc)

    def begun(self, source: Source) -> tuple[str, Sequence[PartOf]]:
        found = self._begun.get(source, {})
        if not found:
            return "", ()
        upload = max(found, key=int)
        return upload, [part for _, (part, _) in sorted(found[upload].items())]

    def begin(self, source: Source) -> str:
        self.before("begin", source)
        self._begun.setdefault(source, {})[upload := str(next(self._ids))] = {}
        return upload

    def write_part(self, source: Source, upload: str, number: int, body: Body, crc: str) -> PartOf:
        self.before("write_part", source)
        if crc64nvme(body) != crc:
            raise Temporary(f"{source}: other bytes arrived")
        part = PartOf(number, len(body), hashlib.md5(body, usedforsecurity=False).hexdigest(), crc)
        self._of(source, upload)[number] = (part, bytes(body))
        return part

    def finish(
        self, source: Source, upload: str, parts: Sequence[PartOf], crc: str, *, over: str | None = None
    ) -> Stored:
        self.before("finish", source)
        self._refuse(source, over)
        there = self._of(source, upload)
        bodies = [there[part.number][1] for part in parts]
        whole = b"".join(bodies)
        if crc64nvme(whole) != crc:
            raise Temporary(f"{source}: other bytes arrived")
        del self._begun[source][upload]
        self.objects.write(str(source), whole)
        self._parts[source] = [len(body) for body in bodies]
        etag = self.objects.head(source).etag
        return self._keep(source, Stored(size=len(whole), etag=etag), crc)

    def _refuse(self, source: Source, over: str | None) -> None:
        try:
            there = self.objects.head(source).etag
        except SourceNotReady:
            there = ""
        if over is not None and there != over:
            raise Conflict(f"{source}: exists already")

    def _of(self, source: Source, upload: str) -> dict[int, tuple[PartOf, bytes]]:
        if upload not in self._begun.get(source, {}):
            raise SourceNotReady(f"{source}: no such upload")
        return self._begun[source][upload]

    def _keep(self, source: Source, stored: Stored, crc: str) -> Stored:
        self.facts[source] = replace(stored, checksums={"crc64nvme": crc}, kind=WHOLE)
        return self.facts[source]
