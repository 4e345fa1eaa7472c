"""Delivers an event to whoever `[notify]` names: a command, a URL, or both."""

from __future__ import annotations

import json
import subprocess

from handlers.core.errors import Temporary
from handlers.core.model import Event
from handlers.settings import Notify

LONGEST_S = 30.0


def deliver(notify: Notify, event: Event) -> None:
    """Tell of one event; raises `Temporary` when it did not arrive, without secrets of the URL in the text.

    The command gets the sentence as its last argument and the whole event as JSON on stdin; the URL gets
    the JSON as a POST.
    """
    body = json.dumps({"kind": event.kind, "object": event.object, "text": event.text, "when": event.when})
    if notify.command:
        _run(notify.command, event, body.encode())
    if notify.url:
        _post(notify.url, body.encode())


def _run(command: tuple[str, ...], event: Event, body: bytes) -> None:
    try:
        ended = subprocess.run([*command, event.text], input=body, capture_output=True, timeout=LONGEST_S)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Temporary(f"notify.command {command[0]}: {e}") from None
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip()[-200:]
        raise Temporary(f"notify.command {command[0]} ended with {ended.returncode}: {said}")


def _post(url: str, body: bytes) -> None:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=LONGEST_S):  # noqa: S310 - settings allow http(s) only
            pass
    except urllib.error.HTTPError as e:
        raise Temporary(f"notify.url: HTTP {e.code}") from None
    except (OSError, ValueError) as e:
        raise Temporary(f"notify.url: {getattr(e, 'reason', None) or type(e).__name__}") from None
