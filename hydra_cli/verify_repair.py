"""`hydra verify --repair`: damaged datasets back to where they are fetched, damaged RAM copies dropped.

Each step leaves the node in a state that sync and reload converge from: the release loses its public name
first, so nobody new begins to read it; sync compares what is staged with the release and fetches the rest.
What is in use is never touched; the rule for that is the one by which sync deletes.
"""

from __future__ import annotations

from collections.abc import Sequence

from handlers.adapters.bodies import Bodies
from handlers.adapters.inspection import Copy, Damage, exists
from handlers.adapters.ledger import Ledger
from handlers.adapters.local import LocalState, turn
from handlers.adapters.ram import RamCache
from handlers.adapters.rooms import Rooms
from handlers.adapters.survey import Survey
from handlers.adapters.volume import Volumes
from handlers.core.errors import HydraError, Temporary
from handlers.core.holdings import Piece
from handlers.core.model import RAM
from handlers.settings import Settings
from hydra_cli.output import Screen


def repair(
    screen: Screen, own: Settings, volumes: Volumes, bodies: Bodies, found: Sequence[Damage]
) -> dict[tuple[str, Piece], str]:
    """By volume and dataset what was done about it, or why nothing was.

    Waits until neither sync nor reload is at work; `Temporary` when others wait for that already.
    """
    ledger = Ledger(LocalState(own.root), own.limits.retry_s)
    survey = Survey(volumes, Rooms(volumes), bodies, ledger, own.limits)
    screen.note("waiting for a pause of sync and reload")
    with turn(own.root, "sync") as first, turn(own.root, "reload") as second:
        if not (first and second):
            raise Temporary(
                "sync or reload is busy and has another run waiting; nothing is repaired: try again"
            )
        # one copy of each: a damage is listed per file
        copies = {(damage.copy.volume, damage.copy.piece): damage.copy for damage in found}
        return {name: _mend(own, survey, volumes, copy) for name, copy in copies.items()}


def _mend(own: Settings, survey: Survey, volumes: Volumes, copy: Copy) -> str:
    volume, piece = copy.volume, copy.piece
    try:
        if reason := survey.in_use(piece.release):
            return f"not repaired: {reason}; move its instances to another release (`hydra pin`) first"
        if not exists(volumes, copy):
            return "removed meanwhile"
        if own.volumes[volume].cls == RAM:
            RamCache(own.root, own.volumes).drop(piece)
            return "dropped from RAM; reload fills it again"
        volumes.restage(volume, piece)
    except HydraError as e:
        return f"not repaired: {e}"
    return "taken out of use; sync fetches what is wrong within a minute"
