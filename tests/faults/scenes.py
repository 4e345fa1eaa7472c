"""One run of `sync` in which it does everything, to be interrupted anywhere: D6 and D7."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from handlers.core import keys
from handlers.core.model import State
from handlers.core.version import ReleaseId
from tests.faults.field import MIB, Field
from tests.handlers.sync_node import NODE

BIG = 12 * MIB
UNIT = MIB


@dataclass
class Change:
    """A node with two releases, of which one goes; a third is to come, partly from what is there.

    In the run after `want` a big file is fetched, a file is linked, another is fetched for its changed
    chunk, many small ones come, and the first release is deleted.
    """

    field: Field
    old: ReleaseId
    kept: ReleaseId
    new: ReleaseId
    reported: bytes

    @classmethod
    def on(cls, field: Field) -> Change:
        """Bring the node to where the change begins."""
        same, in_place = os.urandom(2 * MIB), os.urandom(3 * MIB)
        changed = in_place[:MIB] + os.urandom(MIB) + in_place[2 * MIB :]
        small = {f"d{n % 5}/f{n:02}": os.urandom(100 * n) for n in range(40)}
        old = field.put_files(1, {"a": b"old" * 1000, "d/b": b"b"})
        kept = field.put_files(2, {"same": same, "in-place": in_place, "empty": b""})
        new = field.put_files(3, {"big": os.urandom(BIG), "same": same, "in-place": changed, **small})
        field.desire(1, old, kept)
        field.synced(old, kept)
        entry, _ = field.kv.get(keys.actual(NODE))
        assert entry is not None
        return cls(field, old, kept, new, entry.value)

    def want(self) -> None:
        """Desire it."""
        self.field.desire(2, self.kept, self.new)

    def as_before(self) -> None:
        """The disk was set back to before the change; what the node reported is, too."""
        self.field.put(keys.actual(NODE), self.reported)
        self.field.server.forget()

    def killed(self, phase: str, nth: int, mount: str = "") -> subprocess.CompletedProcess[str]:
        """A run that dies at the n-th thing of a phase; with nth 0 one that lives."""
        words = [sys.executable, "-m", "tests.faults.killed", phase, str(nth), *filter(None, [mount])]
        return subprocess.run(
            words, env=self.field.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )

    def all_or_nothing(self) -> None:
        """Every public name leads to a whole release, and what is reported is there."""
        for release in (self.old, self.kept, self.new):
            if self.field.folder(release).exists():
                assert self.field.complete(release), f"half of {release} is visible"
        for release, status in self.field.actual().releases.items():
            if status.state is State.SUCCESS and release != self.old:
                assert self.field.complete(release), f"{release} is reported and is not whole"

    def ends_well(self) -> None:
        """The next run finishes the work and leaves nothing over."""
        self.field.synced(self.kept, self.new)
        assert not self.field.folder(self.old).exists()
        assert not self.field.data(self.old).exists()
