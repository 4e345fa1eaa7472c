"""The cheap end of a run that a watch started for something that was fully handled before.

`consul watch` fires again with unchanged data: at its start, after every reconnect, after every error. A
handler that has converged notes which view it was (`text` under `name(handler)` in its local state); a later
run with the same view is over before it imports anything heavy. This is the only use of what a watch says:
whoever goes on reads the KV itself.
"""

from __future__ import annotations

import hashlib
import json
from binascii import Error, a2b_base64
from pathlib import Path


def name(handler: str) -> str:
    """Where in the local state a handler notes the view that it has fully handled."""
    return f"doorbell/{handler}"


def text(index: int, value: bytes) -> bytes:
    """A view of one key: its ModifyIndex and what it held."""
    return f"{index} {hashlib.sha256(value).hexdigest()}\n".encode()


def seen(stdin: bytes) -> bytes | None:
    """`text` of the view that `consul watch -type=key` hands over; None for all else, `null` included."""
    try:
        view = json.loads(stdin)
        return text(int(view["ModifyIndex"]), a2b_base64(view["Value"] or ""))
    except (ValueError, TypeError, KeyError, Error):
        return None


def was_handled(root: Path, handler: str, stdin: bytes) -> bool:
    """Whether `handler` has nothing to do for the view in `stdin`; False whenever that is not certain."""
    try:
        noted = (root / "state" / name(handler)).read_bytes()
    except OSError:
        return False
    return noted == seen(stdin)
