"""One push of a version at a time: whoever pushes says so in the manifest object, until it is complete.

The manifest object of a version that is being pushed says `complete` false, and `push` in it changes a few
times a minute while somebody is at work. Each change names the ETag of the one before, so two pushes cannot
both have the turn, and the manifest of one that has lost it is never written. A push that died is taken over:
at once where its process can be seen to be gone, else when nothing has changed for a while.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec.structs import replace

from handlers.adapters.ports import Objects, Source, Uploads
from handlers.adapters.send import crc64nvme
from handlers.core import pushed
from handlers.core.errors import Conflict, HydraError, SourceNotReady
from handlers.core.model import Pushed
from hydra_cli.publish_checks import manifest_at

RENEW_S = 15.0
SILENT_S = 60.0  # without a sign of life, a push counts as dead
REST_S = 3.0  # how long the end of a broken push waits until that is said
_LOOK_S = 0.5


class Turn:
    """The turn to push the version whose manifest object is at `place`; `who` and `when` are for people."""

    def __init__(self, objects: Objects, uploads: Uploads, place: Source, who: str, when: str) -> None:
        self._objects, self._uploads, self._place = objects, uploads, place
        self._own = Pushed(complete=False, who=who, when=when, at=_process())
        self._etag = ""
        self._lost, self._over = threading.Event(), threading.Event()
        self._renewing = threading.Thread(target=self._keep, name="push-turn", daemon=True)

    def take(self, note: Callable[[str], None]) -> Pushed | None:
        """The manifest object that is there, complete or of a push that died; None = there was none.

        With a complete one there is nothing to push, and no turn. Raises `Conflict` while somebody else is at
        work; `note` is told when it takes a while to find out.
        """
        while True:
            before, self._etag = self._look()
            if before is not None and before.complete:
                return before
            if before is not None and not self._is_dead(before, note):
                raise Conflict(
                    f"{self._place}: {before.who or 'somebody'} is pushing this version now, since "
                    f"{before.when or 'some time'}: wait until that is over, or push a new version"
                )
            with contextlib.suppress(Conflict):  # somebody was faster: look again
                self._renew()
                return before

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """Keep the turn for the block; what it yields raises `Conflict` once it is lost.

        Left before `finish`, the next push of this version need not wait.
        """
        self._renewing.start()
        try:
            yield self._check
        except BaseException:
            # in a thread: a store that is away must not keep whoever pressed Ctrl-C
            resting = threading.Thread(target=self._rest, name="push-rest", daemon=True)
            resting.start()
            resting.join(REST_S)
            raise
        finally:
            self._over.set()

    def finish(self, doc: Pushed) -> None:
        """Write the complete manifest object, the end of the turn; raises `Conflict` where it is lost."""
        self._over.set()
        self._renewing.join()
        with contextlib.suppress(Conflict):
            self._write(doc)
            return
        self._lost.set()
        self._check()

    def _rest(self) -> None:
        self._over.set()
        self._renewing.join()
        with contextlib.suppress(HydraError):
            self._write(replace(self._own, push=""))

    def _check(self) -> None:
        if self._lost.is_set():
            raise Conflict(
                f"{self._place}: somebody else has begun to push this version meanwhile, and this push has "
                "ended; push a new version"
            )

    def _look(self) -> tuple[Pushed | None, str]:
        try:
            info = self._objects.head(self._place)
        except SourceNotReady:
            return None, ""
        found = manifest_at(self._objects, self._place)
        return (found[1], info.etag) if found else (None, "")

    def _is_dead(self, other: Pushed, note: Callable[[str], None]) -> bool:
        if not other.push or (alive := _is_alive(other.at)) is False:
            return True
        if alive:
            return False
        note(f"looks whether a push that {other.who or 'somebody'} began is still at work: {SILENT_S:.0f} s")
        until = time.monotonic() + SILENT_S
        while time.monotonic() < until:
            time.sleep(_LOOK_S)
            if self._look()[1] != self._etag:
                return False
        return True

    def _renew(self) -> None:
        self._write(replace(self._own, push=secrets.token_hex(8)))

    def _keep(self) -> None:
        while not self._over.wait(RENEW_S):
            try:
                self._renew()
            except Conflict:
                self._lost.set()
                return
            except HydraError:
                continue  # the store is away: whoever sends says so

    def _write(self, doc: Pushed) -> None:
        """Replace what we saw last; raises `Conflict` where that is not there any more."""
        raw = pushed.seal(doc)
        try:
            self._etag = self._uploads.write(self._place, raw, crc64nvme(raw), over=self._etag).etag
        except Conflict:
            there = manifest_at(self._objects, self._place)
            if there is None or there[0] != raw:
                raise
            self._etag = self._objects.head(self._place).etag  # it was ours, only the answer was lost


def _process() -> str:
    """This process, told apart from all others on all machines; empty where the system does not tell."""
    return _identity(Path("/proc/self"))


def _is_alive(other: str) -> bool | None:
    """Whether a process lives that `_process` named; None where it cannot be seen from here."""
    where, _, rest = other.rpartition("/")
    pid = rest.partition("-")[0]
    own = _process()
    if not own or own.rpartition("/")[0] != where or not pid.isdecimal():
        return None
    return _identity(Path("/proc", pid)) == other


def _identity(process: Path) -> str:
    """`<boot>/<name space>/<pid>-<start>`; empty when there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = (process / "ns" / "pid").readlink()
        pid, _, rest = (process / "stat").read_text().partition(" ")
        state, *fields = rest.rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot}/{space}/{pid}-{fields[18]}" if state not in "ZX" else ""
