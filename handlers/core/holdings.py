"""What a node holds and what it should hold: the facts that `diff` decides by, and their words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from msgspec import Struct, field

from handlers.core.model import File, Hold, Release
from handlers.core.names import Channel
from handlers.core.version import ReleaseId


class Space(Struct, frozen=True):
    """Room on one volume: bytes and inodes that are needed, or may still be taken above the reserve."""

    bytes: int
    files: int

    def __add__(self, other: Space) -> Space:
        return Space(self.bytes + other.bytes, self.files + other.files)

    def __sub__(self, other: Space) -> Space:
        return Space(self.bytes - other.bytes, self.files - other.files)

    def least(self, other: Space) -> Space:
        """What both allow."""
        return Space(min(self.bytes, other.bytes), min(self.files, other.files))

    def fits(self, room: Space) -> bool:
        """Whether this much can be taken from `room`."""
        return self.bytes <= room.bytes and self.files <= room.files


NOTHING = Space(0, 0)


class Piece(NamedTuple):
    """One dataset of one release."""

    release: ReleaseId
    dataset: str


class Inventory(Struct, frozen=True):
    """What is on the volumes: complete and started datasets with their volume, published releases."""

    complete: Mapping[Piece, str] = field(default_factory=dict)
    staged: Mapping[Piece, str] = field(default_factory=dict)
    released: frozenset[ReleaseId] = frozenset()

    @property
    def held(self) -> frozenset[ReleaseId]:
        """Every release of which anything complete is here."""
        return self.released | {piece.release for piece in self.complete}


class Failure(Struct, frozen=True):
    """Why a release could not be taken over; it is tried again at `next_try` (`when` is that for people)."""

    reason: str
    next_try: float
    when: str = ""


class Policy(Struct, frozen=True):
    """The node's limits that deletion goes by; see `settings.Limits`."""

    unused_grace_s: float
    idle_grace_s: float
    brake_share: float


class Facts(Struct, frozen=True, kw_only=True):
    """All that the decision depends on.

    `bodies` are the verified headers, also of releases that are no longer desired, as far as known. `needs`:
    room that incomplete pieces still take, `saves`: how much less where files of other releases are linked,
    and `sources` which these are. `running`: releases being downloaded, with the volume of each dataset.
    `used`: why a release must stay, by release. `undesired_since`: when this node first saw that a held
    release is no longer desired. `local`: channels that services with instances on this node read. `hold`:
    why nothing may be deleted. `space` is free room above reserves and within budgets: by volume, of
    namespaces with a budget by `room.room_of_namespace`, of volumes on one file system by `room.joint_room`.
    `shares`: what files take, by the exact set of releases that have them, and by room; empty = not measured.
    `starts`: when downloads may begin.
    """

    desired: Mapping[ReleaseId, Hold]
    bodies: Mapping[ReleaseId, Release]
    inventory: Inventory
    needs: Mapping[Piece, Space]
    saves: Mapping[Piece, Mapping[str, Space]] = field(default_factory=dict)
    sources: Mapping[Piece, frozenset[ReleaseId]] = field(default_factory=dict)
    space: Mapping[str, Space]
    classes: Mapping[str, str]
    policy: Policy
    now: float
    cordoned: bool = False
    hold: str = ""
    failures: Mapping[ReleaseId, Failure] = field(default_factory=dict)
    running: Mapping[ReleaseId, Mapping[str, str]] = field(default_factory=dict)
    used: Mapping[ReleaseId, str] = field(default_factory=dict)
    undesired_since: Mapping[ReleaseId, float] = field(default_factory=dict)
    local: frozenset[Channel] = frozenset()
    shares: Mapping[frozenset[ReleaseId], Mapping[str, Space]] = field(default_factory=dict)
    starts: Mapping[ReleaseId, float] = field(default_factory=dict)


def missing(release: ReleaseId, header: Release, inventory: Inventory) -> list[str]:
    """The datasets of a release that are not complete on this node."""
    return [name for name in sorted(header.datasets) if Piece(release, name) not in inventory.complete]


ALONE, SPREAD_PER_NODE_S = 10, 0.05


def start_delay_s(node: str, release: ReleaseId, crowd: int, spread_s: float) -> float:
    """How long a node waits before it begins with a release that `crowd` nodes begin with.

    At most `spread_s`, and the same each time; a few nodes need not wait.
    """
    if crowd <= ALONE:
        return 0.0
    share = int.from_bytes(hashlib.sha256(f"{node} {release}".encode()).digest()[:4]) / 2**32
    return share * min(spread_s, crowd * SPREAD_PER_NODE_S)


LONGEST_RETRY_S = 4 * 3600.0


def retry_delay_s(tries: int, first_s: float, chance: float) -> float:
    """How long to wait after the `tries`-th failure in a row: doubling from `first_s` to hours.

    `chance` in 0..1 spreads nodes that failed together over the second half of the time.
    """
    return min(LONGEST_RETRY_S, first_s * 2.0 ** min(tries - 1, 20)) * (0.5 + chance / 2)


def footprint(files: Collection[File], kept: Callable[[File], int], block: int) -> Space:
    """Bytes in whole blocks and inodes that a dataset still takes; `kept`: bytes of a file that are here."""
    left = [(f, f.size - kept(f)) for f in files]
    left = [(f, size) for f, size in left if size > 0 or not f.size]
    folders = {f.path.rpartition("/")[0] for f, _ in left}
    # an inode and a block for each folder above a file, and some for those of the dataset itself
    extra = sum(folder.count("/") + 1 for folder in folders if folder) + 8
    return Space(sum(-(-size // block) * block for _, size in left) + extra * block, len(left) + extra)
