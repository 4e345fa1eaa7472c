"""What `reload` wants done to a pod: `discover` does it, which alone has loaded the client of Kubernetes.

    state/errands/<uid>           what to do, under an id
    state/errands/<uid>.answer    the same id, and what went wrong

An errand may be done twice: a run of reload that was killed gives it again. It is done only while somebody
waits for it: what a killed run wanted may not be wanted any more. A deletion is answered only when it fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from handlers.adapters.local import LocalState
from handlers.core.errors import Denied, HydraError, Malformed

_FOLDER, _ANSWER = "errands", ".answer"
_LOOK_S = 0.1
WAITED_FOR_S = 5.0  # after whoever gave it was last seen waiting


class Kind(StrEnum):
    """What is done to the pod."""

    DELETE = "delete"
    SIGNAL = "signal"
    RESTART = "restart"


class Errand(Struct, frozen=True, kw_only=True):
    """One errand to the pod with this UID, `given` at a second of the epoch; `container` and `signal` where
    it does not mean all of the pod.
    """

    uid: str
    id: str
    kind: Kind
    given: float
    container: str = ""
    signal: str = ""


class Errands:
    """The errands of one node, in its local state."""

    def __init__(self, local: LocalState) -> None:
        self._local = local

    def give(self, uid: str, kind: Kind, limit_s: float, container: str = "", signal: str = "") -> None:
        """Have it done, and wait for the answer; raises `HydraError` with what went wrong, `Denied` for want
        of rights.
        """
        name, now = secrets.token_hex(8), time.time()
        errand = Errand(uid=uid, id=name, kind=kind, given=now, container=container, signal=signal)
        self._local.write(f"{_FOLDER}/{uid}", json.dumps(asdict(errand)).encode())
        end = time.monotonic() + limit_s
        while (answer := self._answer(errand)) is None:
            if time.monotonic() > end:
                self.forget(uid)
                raise HydraError(f"{kind} of its pod: not done within {limit_s:g} s")
            with contextlib.suppress(FileNotFoundError):  # the pod is gone
                os.utime(self._local.path(f"{_FOLDER}/{uid}"))
            time.sleep(_LOOK_S)
        self.forget(uid)
        if error := answer["error"]:
            raise (Denied if answer.get("denied") else HydraError)(f"{kind} of its pod: {error}")

    def given(self) -> list[Errand]:
        """All that somebody waits for; what cannot be read is forgotten, and is given again if need be."""
        names = [name for name in self._local.names(_FOLDER) if not name.endswith(_ANSWER)]
        found = [self._read(uid) for uid in names]
        return [errand for errand in found if errand and self._answer(errand) is None]

    def answer(self, errand: Errand, error: str = "", *, denied: bool = False) -> None:
        """It is done, or this is what went wrong; `denied`: for want of rights."""
        said = {"id": errand.id, "error": error, "denied": denied}
        self._local.write(f"{_FOLDER}/{errand.uid}{_ANSWER}", json.dumps(said).encode())

    def forget(self, uid: str) -> None:
        """Nobody waits for it any more."""
        for name in (uid, f"{uid}{_ANSWER}"):
            self._local.delete(f"{_FOLDER}/{name}")

    def _read(self, uid: str) -> Errand | None:
        name = f"{_FOLDER}/{uid}"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            fields = json.loads(self._local.read(name) or b"null")
            errand = Errand(**fields | {"kind": Kind(fields["kind"])})
            if time.time() - self._local.path(name).stat().st_mtime < WAITED_FOR_S:
                return errand
        self.forget(uid)
        return None

    def _answer(self, errand: Errand) -> dict[str, Any] | None:
        try:
            found = json.loads(self._local.read(f"{_FOLDER}/{errand.uid}{_ANSWER}") or b"{}")
        except ValueError as e:
            raise Malformed(f"answer to an errand: {e}") from None
        return dict(found) if found.get("id") == errand.id else None
