"""One logging set-up for all processes: `key=value` lines, or JSON with HYDRA_LOG=json.

Fields are the words of the design: `channel release node service instance`. Secrets never get here.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

_OWN = "hydra_fields"


class _Lines(logging.Formatter):
    """`2026-01-31T23:59:59Z info sync downloaded release=… node=…`."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        head = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "handler": record.name,
            "event": record.getMessage(),
        }
        fields: dict[str, Any] = getattr(record, _OWN, {})
        if record.exc_info:
            fields = {**fields, "traceback": self.formatException(record.exc_info)}
        if self._as_json:
            return json.dumps({**head, **fields}, default=str)
        words = " ".join(f"{k}={_quoted(str(v))}" for k, v in fields.items())
        return " ".join(filter(None, (*head.values(), words))).replace("\n", "\\n")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n') else text


def setup(environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Log to stderr, level from HYDRA_LOG_LEVEL (default info)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(environ.get("HYDRA_LOG") == "json"))
    logging.basicConfig(level=environ.get("HYDRA_LOG_LEVEL", "info").upper(), handlers=[handler], force=True)


def info(handler: str, event: str, **fields: object) -> None:
    """Log what happened."""
    logging.getLogger(handler).info(event, extra={_OWN: fields})


def warning(handler: str, event: str, **fields: object) -> None:
    """Log what a person may want to look at."""
    logging.getLogger(handler).warning(event, extra={_OWN: fields})


def error(handler: str, event: str, cause: BaseException, **fields: object) -> None:
    """Log what should not happen, with the place where `cause` was raised."""
    logging.getLogger(handler).error(event, exc_info=cause, extra={_OWN: {"error": cause, **fields}})
