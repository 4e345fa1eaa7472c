"""What is done to the cluster, and when: a function of the seed and the duration, and of nothing else.

Acts name nobody: `pick` chooses among whoever is there when the time has come. So the same seed asks for the
same, however fast the machine is.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

QUIET_S = 5.0  # at the beginning: the traffic runs
PAUSE_S = (0.5, 4.0)  # between two acts


class Kind(StrEnum):
    """What may be done. Those with a duration are ended by themselves."""

    PUBLISH = "publish"
    PUBLISH_SICK = "publish what makes its readers sick"
    ROLLBACK = "rollback"
    PIN = "pin"
    UNPIN = "unpin"
    BUDGET = "budget"
    PAUSE = "pause"
    RESUME = "resume"
    ADD = "add a replica"
    REMOVE = "remove a replica"
    KILL_HANDLER = "kill a handler"
    KILL_PROGRAM = "kill a child of supervisord"
    KILL_TEMPLATE = "kill consul-template"
    KILL_SERVICE = "kill a service"
    FREEZE_HANDLER = "freeze a handler"
    FREEZE_TEMPLATE = "freeze consul-template"
    FREEZE_SERVICE = "freeze a service"
    FREEZE_PLANNER = "freeze the planner"
    FREEZE_CONSUL = "freeze the Consul server"
    KILL_CONSUL = "kill the Consul server"
    PARTITION = "cut a node off"
    KILL_AGENT = "kill an agent"
    KILL_NODE = "cut a node's power"
    WIPE = "wipe the disks of a node"
    RESTORE = "restore the KV"


# How often each is chosen, against the others.
WEIGHTS: Mapping[Kind, int] = {
    Kind.PUBLISH: 16,
    Kind.PUBLISH_SICK: 2,
    Kind.ROLLBACK: 4,
    Kind.PIN: 3,
    Kind.UNPIN: 5,
    Kind.BUDGET: 6,
    Kind.PAUSE: 2,
    Kind.RESUME: 5,
    Kind.ADD: 4,
    Kind.REMOVE: 3,
    Kind.KILL_HANDLER: 8,
    Kind.KILL_PROGRAM: 4,
    Kind.KILL_TEMPLATE: 3,
    Kind.KILL_SERVICE: 4,
    Kind.FREEZE_HANDLER: 5,
    Kind.FREEZE_TEMPLATE: 2,
    Kind.FREEZE_SERVICE: 2,
    Kind.FREEZE_PLANNER: 3,
    Kind.FREEZE_CONSUL: 2,
    Kind.KILL_CONSUL: 2,
    Kind.PARTITION: 4,
    Kind.KILL_AGENT: 3,
    Kind.KILL_NODE: 2,
    Kind.WIPE: 2,
    Kind.RESTORE: 1,
}
# How long a fault lasts, in seconds.
LASTS: Mapping[Kind, tuple[float, float]] = {
    Kind.FREEZE_HANDLER: (1, 25),  # sessions end meanwhile
    Kind.FREEZE_TEMPLATE: (1, 10),
    Kind.FREEZE_SERVICE: (1, 6),
    Kind.FREEZE_PLANNER: (1, 25),
    Kind.FREEZE_CONSUL: (0.5, 4),
    Kind.KILL_CONSUL: (0.5, 8),
    Kind.PARTITION: (1, 30),
    Kind.KILL_AGENT: (0.5, 15),
    Kind.KILL_NODE: (1, 30),
    Kind.RESTORE: (5, 15),  # until somebody says that this is meant
}
# Of these only one at a time: of two, people would not expect that anything still works.
GREAT = frozenset(
    {
        Kind.FREEZE_CONSUL,
        Kind.KILL_CONSUL,
        Kind.PARTITION,
        Kind.KILL_AGENT,
        Kind.KILL_NODE,
        Kind.WIPE,
        Kind.RESTORE,
    }
)
WIPE_S = 5.0
# What people do by commands.
ORDERS = frozenset(
    {
        Kind.PUBLISH,
        Kind.PUBLISH_SICK,
        Kind.ROLLBACK,
        Kind.PIN,
        Kind.UNPIN,
        Kind.BUDGET,
        Kind.PAUSE,
        Kind.RESUME,
    }
)


@dataclass(frozen=True)
class Act:
    """Do `kind` `at_s` after the beginning, to what `pick` (0 <= pick < 1) chooses, for `lasts_s`."""

    at_s: float
    kind: Kind
    pick: float
    lasts_s: float = 0.0

    @property
    def end_s(self) -> float:
        """When it is over."""
        return self.at_s + self.lasts_s


def schedule(seed: int, duration_s: float) -> tuple[Act, ...]:
    """The acts in the order of their time; all are over after `duration_s`."""
    dice = random.Random(seed)
    acts: list[Act] = []
    kinds, weights = zip(*WEIGHTS.items(), strict=True)
    at_s, great_until_s = QUIET_S, 0.0
    while at_s < duration_s:
        # all dice are thrown for each act, so a change of one table leaves the rest of a seed as it was
        (kind,) = dice.choices(kinds, weights)
        pick, share, pause_s = dice.random(), dice.random(), dice.uniform(*PAUSE_S)
        shortest, longest = LASTS.get(kind, (0.0, 0.0))
        act = Act(at_s, kind, pick, shortest + share * (longest - shortest))
        at_s += pause_s
        if act.end_s > duration_s:
            continue
        if kind in GREAT:
            if act.at_s < great_until_s:
                continue
            great_until_s = act.end_s + WIPE_S
        acts.append(act)
    return tuple(acts)


def directed(text: str) -> tuple[Act, ...]:
    """Acts as people write them, `SECONDS KIND [PICK [LASTS]]; …`: `1 publish; 20 wipe 0.4; 30 restore 0 15`.

    The kinds are the names of `Kind`. Raises ValueError for anything else.
    """
    acts = []
    for words in (part.split() for part in text.split(";")):
        at_s, name, *rest = words
        if name.upper() not in Kind.__members__:
            raise ValueError(f"no kind of act {name!r}; there are {', '.join(Kind.__members__).lower()}")
        pick, lasts_s = (*map(float, rest), *(0.0, 0.0)[len(rest) :])
        acts.append(Act(float(at_s), Kind[name.upper()], pick, lasts_s))
    return tuple(sorted(acts, key=lambda act: act.at_s))
