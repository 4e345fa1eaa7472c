"""The errors of Hydra and the exit code of each.

    HydraError                     1   failed
    ├── Temporary                 10   the next try may succeed (Consul or S3 away, disk full for now)
    │   ├── NoRoom                10   a volume is full
    │   ├── SlowDown              10   the object store asks for fewer requests
    │   └── Timeout                6   a wait ended before what it waited for
    ├── Usage                      2   bad input or an unknown name
    │   └── Malformed              2   a document in KV or a file does not parse
    ├── Denied                     4   no permission
    ├── Conflict                   5   somebody else was first, or the same version with other content
    ├── Integrity                  7   bytes are not what the release says
    ├── Untrusted                  8   a signature or certificate is missing or wrong
    ├── NotTakenOver               9   published, but halted, rejected, paused or pinned elsewhere
    └── SourceNotReady            11   the data is not (completely) on S3 yet

Everything that is not `Temporary` is permanent: trying the same again gives the same result.
Errors are raised with the operation and the key or path in the text, and are turned into a log line or
an exit code in one place, at the edge.
"""

from __future__ import annotations

EXIT_PENDING = 3
EXIT_INTERRUPTED = 130


class HydraError(Exception):
    """Something went wrong; the text says what, where, and what to do next."""

    exit_code = 1


class Temporary(HydraError):
    """The outside is away or out of resources for now; the same step may succeed later."""

    exit_code = 10


class NoRoom(Temporary):
    """A volume is full, or has no inodes left."""


class SlowDown(Temporary):
    """The object store asks for fewer requests, and for `pause_s` seconds of peace (0 = it does not say)."""

    def __init__(self, text: str, pause_s: float = 0.0) -> None:
        super().__init__(text)
        self.pause_s = pause_s


class Timeout(Temporary):
    """A wait ended before what it waited for."""

    exit_code = 6


class Usage(HydraError):
    """Bad input from a person: an unknown name, a wrong value."""

    exit_code = 2


class Malformed(Usage):
    """A document does not parse or has a field of the wrong kind; the text names key and field."""


class Denied(HydraError):
    """Consul or S3 refused for lack of permission, or filtered a listing (which must not look short)."""

    exit_code = 4


class Conflict(HydraError):
    """A compare-and-set lost, or the name is taken by other content."""

    exit_code = 5


class Integrity(HydraError):
    """Bytes differ from what the release names."""

    exit_code = 7


class Untrusted(HydraError):
    """A signature or certificate is missing or wrong."""

    exit_code = 8


class NotTakenOver(HydraError):
    """Published, but the services will not (all) move to it; the text says why."""

    exit_code = 9


class SourceNotReady(HydraError):
    """The data that a template names is not, or not completely, in the object store."""

    exit_code = 11
