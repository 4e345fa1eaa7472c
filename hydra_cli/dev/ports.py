"""TCP ports for the servers of a local cluster: free now, and not handed out twice on this machine."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

# Below the ports that the kernel gives to outgoing connections: one of those could take the port between
# our look and the start of the server.
_LOWEST, _HIGHEST = 10_000, 29_999
_TRIES = 1_000
_given: set[int] = set()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on with TCP or UDP, and that nobody else was given by this.

    It is kept for this process for as long as that lives: a server may end and start again on it. A process
    that does not ask here may be faster all the same: who starts a server tries again with another port when
    the server says that its port is taken.
    """
    for _ in range(_TRIES):
        port = random.randint(_LOWEST, _HIGHEST)
        if port not in _given and _is_kept(port) and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {_LOWEST} and {_HIGHEST} on 127.0.0.1")


def _is_kept(port: int) -> bool:
    """Keep a port from all other processes of this user that look for one; whether nobody has it."""
    try:
        fcntl.lockf(_register(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    return True


@functools.cache
def _register() -> int:
    """A file in which each process locks the bytes of its ports; open for as long as the process lives."""
    path = Path(tempfile.gettempdir(), f"hydra-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
