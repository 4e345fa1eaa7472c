"""`hydra-handler NAME`: one run of one handler; errors become exit codes here and nowhere else.

Started by `consul watch` (which sets CONSUL_INDEX), by resync, by supervisord (discover, resync), or by hand.
SIGTERM ends a run at once: a handler is always ready to be killed, the next run goes on from what it finds.

Exit codes. By hand and under resync, a failure is the exit code of its error. Under `consul watch` it is
logged, and the exit code is 0 all the same: a non-zero one would end the watch, and its restart would run
the handler again at once and for ever, with the same failure, at the price of a new watch each time. Instead,
what may pass (`Temporary`, a lost race) is tried again a few times right here, and all else is left to the
next change or to resync, which also runs the handlers as soon as it sees Consul come back.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

TYPE_CHECKING = False  # as in `typing`, whose import would cost every run
if TYPE_CHECKING:
    from threading import ExceptHookArgs

    from handlers.context import Context
    from handlers.settings import Settings

HANDLERS = {
    "plan": "decide what every node should hold, and write what changed to desired/",
    "sync": "make this node hold what desired/<node> names",
    "reload": "move this node's instances to their targets, one replica at a time",
    "judge": "check the canaries of rollouts; runs until none waits for it",
    "retain": "delete what retention and tombstones allow",
    "discover": "keep nodes/<node>/instances and /alive true; runs until it is ended",
    "enroll": "subscribe services as their Kubernetes workloads say; runs until it is ended",
    "record": "note who serves what and what was changed by hand, tell [notify]; runs until it is ended",
    "resync": "run the other handlers of this node from time to time; runs until it is ended",
}
USAGE = """Usage: hydra-handler HANDLER

Runs one handler of this node. Handlers are started by `hydra node run`; by hand they do the same:
each compares everything wanted with everything there, so an extra run does no harm.

Handlers:
{handlers}

Environment: CONSUL_HTTP_ADDR and its family, AWS_* (sync, retain), HYDRA_NODE, HYDRA_ROOT, HYDRA_CONFIG,
HYDRA_LOG=json, HYDRA_LOG_LEVEL.

Exit codes:
  0    done, or nothing to do
  1    failed
  2    bad usage, settings or document
  4    no permission
  5    lost a race against another writer
  6    time-out
  7    data is not what its release says
  10   Consul or S3 is away; trying again makes sense
  130  interrupted
  Under `consul watch` (CONSUL_INDEX is set) always 0: a failure is logged and tried again by resync.

Examples:
  hydra-handler sync
  HYDRA_LOG_LEVEL=debug hydra-handler reload
"""
PAUSES_S = (0.5, 1.0, 2.0)  # between the tries of a run that a watch started
_CHEAP_END = frozenset({"sync"})  # who notes in `handlers.doorbell` what was fully handled


def main(argv: list[str] | None = None) -> int:
    """Run the handler that the arguments name; the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(arguments):
        print(USAGE.format(handlers="\n".join(f"  {n:<9} {text}" for n, text in HANDLERS.items())), end="")
        return 0
    if len(arguments) != 1 or arguments[0] not in HANDLERS:
        print(f"hydra-handler: name one handler: {', '.join(HANDLERS)} (see --help)", file=sys.stderr)
        return 2
    try:
        return 0 if _nothing_to_do(arguments[0]) else _run(arguments[0])
    except KeyboardInterrupt:
        return 130


def _nothing_to_do(handler: str) -> bool:
    """The cheap end: a watch rang for what is known to be done. Only the local state is looked at."""
    root = os.environ.get("HYDRA_ROOT")
    if handler not in _CHEAP_END or not root or "CONSUL_INDEX" not in os.environ:
        return False
    from handlers import doorbell

    return doorbell.was_handled(Path(root), handler, sys.stdin.buffer.read())


def _run(handler: str) -> int:
    from handlers import log
    from handlers.core.errors import HydraError

    watched = "CONSUL_INDEX" in os.environ
    os.umask(0o022)  # services read the data, and nobody else writes it, whatever our parent has set
    log.setup()
    try:
        _in_turn(handler, watched)
    except HydraError as e:
        log.warning(handler, "failed", error=e, kind=type(e).__name__)
        return 0 if watched else e.exit_code
    except Exception as e:  # noqa: BLE001 - whatever it is, it must not end the watch; it is logged with its place
        log.error(handler, "broke off", e, kind=type(e).__name__)
        return 0 if watched else 1
    return 0


def _in_turn(handler: str, watched: bool) -> None:
    """Wait for this handler's turn on this node, then run it."""
    from handlers import log, settings
    from handlers.adapters.local import turn

    own = settings.load()
    with turn(own.root, handler) as mine:
        if mine:
            _tries(handler, own, PAUSES_S if watched else ())
        else:
            log.info(handler, "a run is queued already and will see this change")


def _tries(handler: str, own: Settings, pauses_s: tuple[float, ...]) -> None:
    """Run the handler, again after each pause while what fails may pass."""
    import random
    import time

    from handlers import log
    from handlers.core.errors import Conflict, Temporary

    for pause_s in pauses_s:
        try:
            return _once(handler, own)
        except (Temporary, Conflict) as e:
            log.warning(handler, "will try again", error=e, pause_s=pause_s)
        time.sleep(pause_s * random.uniform(0.5, 1.5))
    return _once(handler, own)


def _once(handler: str, own: Settings) -> None:
    """Run the handler and log the sentence that it returns."""
    import importlib
    import threading

    from handlers import log

    threading.excepthook = lambda broken: _end_with(handler, broken)
    run = importlib.import_module(f"handlers.{handler}").run
    ctx = _context(own)
    log.info(handler, run(ctx), node=ctx.node)


def _end_with(handler: str, broken: ExceptHookArgs) -> None:
    """End the process when one of its threads broke off: the others would go on as if it still looked."""
    if broken.exc_type is SystemExit or broken.exc_value is None:
        return
    from handlers import log

    name = broken.thread.name if broken.thread else ""
    log.error(handler, "broke off", broken.exc_value, kind=broken.exc_type.__name__, thread=name)
    os._exit(0 if "CONSUL_INDEX" in os.environ else 1)


def _context(own: Settings) -> Context:
    from handlers.adapters.kv import ConsulKV
    from handlers.adapters.local import LocalState
    from handlers.context import Context, node_name

    kv, local = ConsulKV.from_env(), LocalState(own.root)
    index = os.environ.get("CONSUL_INDEX", "")
    return Context(
        settings=own,
        node=node_name(own, kv, local),
        kv=kv,
        local=local,
        index=int(index) if index.isdecimal() else 0,
    )


if __name__ == "__main__":
    sys.exit(main())
