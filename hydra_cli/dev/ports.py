"""TCP ports for the servers of a local cluster: free now, and not handed out twice."""

from __future__ import annotations

import random
import socket

# Below the ports that the kernel gives to outgoing connections: one of those could take the port between
# our look and the start of the server.
_LOWEST, _HIGHEST = 10_000, 29_999
_TRIES = 1_000
_given: set[int] = set()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on with TCP or UDP, and that this process did not get before.

    Another process may be faster all the same: who starts a server tries again with another port when the
    server says that its port is taken.
    """
    for _ in range(_TRIES):
        port = random.randint(_LOWEST, _HIGHEST)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {_LOWEST} and {_HIGHEST} on 127.0.0.1")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
