"""The decision of `sync`: tables, and properties over random nodes that are played through to the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from handlers.core.diff import Delete, Download, Publish, Withdraw, diff
from handlers.core.holdings import (
    LONGEST_RETRY_S,
    Facts,
    Failure,
    Inventory,
    Piece,
    Policy,
    Space,
    missing,
    retry_delay_s,
)
from handlers.core.model import DISK, RAM, Dataset, Hold, ManifestRef, Release, State
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version

PLACES = Channel("prod/search/places")
POLICY = Policy(unused_grace_s=60, idle_grace_s=3600, brake_share=0.5)
NOW = 1_000_000.0
PLENTY = Space(10**12, 10**9)


def rid(day: int) -> ReleaseId:
    return ReleaseId.of(PLACES, Version(f"2026-01-{day:02}T00-00-00"))


def body(day: int, sizes: Mapping[str, int], placement: str = DISK) -> Release:
    datasets = {
        name: Dataset(
            source=f"s3://bucket/{day}/{name}/",
            placement=placement,
            files=1,
            bytes=size,
            version=rid(day).version,
        )
        for name, size in sizes.items()
    }
    manifest = ManifestRef(digest="sha256:x", bytes=1)
    return Release(
        channel=PLACES, version=rid(day).version, sequence=day, datasets=datasets, manifest=manifest
    )


def facts(
    bodies: Mapping[int, Release],
    desired: tuple[int, ...],
    *,
    complete: Mapping[int, tuple[str, ...]] | None = None,
    released: tuple[int, ...] = (),
    **more: object,
) -> Facts:
    """Facts of a node with one large disk; `complete` are datasets by day of their release."""
    inventory = Inventory(
        complete={Piece(rid(d), n): "disk" for d, names in (complete or {}).items() for n in names},
        released=frozenset(map(rid, released)),
    )
    needs = {
        Piece(rid(d), n): Space(b.datasets[n].bytes, 1)
        for d, b in bodies.items()
        for n in missing(rid(d), b, inventory)
    }
    given_: dict[str, object] = {
        "desired": {rid(d): Hold(digest=f"sha256:{d}", sequence=d) for d in desired},
        "bodies": {rid(d): b for d, b in bodies.items()},
        "inventory": inventory,
        "needs": needs,
        "space": {"disk": PLENTY},
        "classes": {"disk": DISK, "ram": RAM},
        "policy": POLICY,
        "now": NOW,
        "local": frozenset([PLACES]),
    }
    return Facts(**{**given_, **more})  # type: ignore[arg-type]


def test_nothing_to_do_is_no_action() -> None:
    decision = diff(facts({1: body(1, {"a": 5})}, (1,), complete={1: ("a",)}, released=(1,)))

    assert decision.actions == ()
    assert decision.statuses[rid(1)].state is State.SUCCESS
    assert decision.again_at is None


def test_a_complete_release_is_published_and_no_success_before_that() -> None:
    decision = diff(facts({1: body(1, {"a": 5})}, (1,), complete={1: ("a",)}))

    assert decision.actions == (Publish(rid(1), {"a": "disk"}, "all datasets are complete"),)
    assert decision.statuses[rid(1)].state is State.DOWNLOADING


def test_only_missing_datasets_are_fetched() -> None:
    decision = diff(facts({1: body(1, {"a": 5, "b": 7})}, (1,), complete={1: ("a",)}))

    assert decision.actions == (Download(rid(1), {"b": "disk"}, "7 bytes are missing"),)


def test_least_remaining_comes_first_and_of_equals_the_newest() -> None:
    bodies = {1: body(1, {"a": 50}), 2: body(2, {"a": 5}), 3: body(3, {"a": 50})}

    decision = diff(facts(bodies, (1, 2, 3)))

    assert [action.release for action in decision.actions] == [rid(2), rid(3), rid(1)]


def test_lost_data_takes_the_public_name_back_unless_a_view_points_to_it() -> None:
    given_ = facts({1: body(1, {"a": 5, "b": 7})}, (1,), complete={1: ("a",)}, released=(1,))

    free, used = diff(given_), diff(replace(given_, used={rid(1): "a view points to it"}))

    assert [type(a) for a in free.actions] == [Withdraw, Download]
    assert [type(a) for a in used.actions] == [Download]


@pytest.mark.parametrize(
    ("since", "local", "hold", "used", "goes"),
    [
        pytest.param(59, True, "", {}, False, id="in grace"),
        pytest.param(61, True, "", {}, True, id="grace over"),
        pytest.param(61, False, "", {}, False, id="no instance here: hours"),
        pytest.param(3601, False, "", {}, True, id="hours over"),
        pytest.param(9999, True, "the KV is behind", {}, False, id="held off"),
        pytest.param(9999, True, "", {rid(1): "a process has it open"}, False, id="in use"),
    ],
)
def test_an_undesired_release_goes(
    since: float, local: bool, hold: str, used: dict[ReleaseId, str], goes: bool
) -> None:
    bodies = {1: body(1, {"a": 5}), 2: body(2, {"a": 5})}
    decision = diff(
        facts(
            bodies,
            (2,),
            complete={1: ("a",), 2: ("a",)},
            released=(1, 2),
            undesired_since={rid(1): NOW - since},
            local=frozenset([PLACES]) if local else frozenset(),
            hold=hold,
            used=used,
        )
    )

    assert [a.release for a in decision.actions if isinstance(a, Delete)] == ([rid(1)] if goes else [])


def test_the_brake_holds_a_mass_deletion_for_hours_and_says_so() -> None:
    bodies = {day: body(day, {"a": 5}) for day in (1, 2, 3)}
    given_ = facts(
        bodies,
        (3,),
        complete=dict.fromkeys((1, 2, 3), ("a",)),
        released=(1, 2, 3),
        undesired_since={rid(1): NOW - 100, rid(2): NOW - 100},
    )

    braked, later = diff(given_), diff(replace(given_, now=NOW + 3600))

    assert braked.actions == ()
    assert "2 of 3 releases" in braked.alarms[0]
    assert braked.again_at == NOW - 100 + 3600
    assert [type(a) for a in later.actions] == [Delete, Delete]
    assert later.alarms == ()


def test_deletion_comes_before_download() -> None:
    given_ = facts(
        {1: body(1, {"a": 5}), 2: body(2, {"a": 5})},
        (2,),
        complete={1: ("a",)},
        released=(1,),
        undesired_since={rid(1): NOW - 9999},
    )

    assert [type(a) for a in diff(given_).actions] == [Delete, Download]


@pytest.mark.parametrize(
    ("free", "held", "state", "words"),
    [
        pytest.param(Space(100, 10), 0, State.DOWNLOADING, "", id="fits exactly"),
        pytest.param(Space(99, 10), 0, State.FAILED, "needs 100 bytes", id="one byte short"),
        pytest.param(Space(100, 0), 0, State.FAILED, "are 100 bytes and 0 files", id="no inode left"),
        pytest.param(Space(40, 10), 60, State.WAITING, "waits until", id="fits when others are gone"),
        pytest.param(Space(39, 10), 60, State.FAILED, "no release here can make room", id="not even then"),
    ],
)
def test_room_is_checked_before_the_first_byte(free: Space, held: int, state: State, words: str) -> None:
    bodies = {1: body(1, {"a": held}), 2: body(2, {"a": 100})}
    complete = {1: ("a",)} if held else {}

    decision = diff(facts(bodies, (2,), complete=complete, space={"disk": free}))

    assert decision.statuses[rid(2)].state is state
    assert words in decision.statuses[rid(2)].reason


def test_a_release_that_does_not_fit_keeps_no_room_from_others() -> None:
    bodies = {1: body(1, {"a": 30, "b": 90}), 2: body(2, {"a": 80}), 3: body(3, {"a": 15})}

    decision = diff(facts(bodies, (1, 2, 3), space={"disk": Space(100, 100)}))

    assert {a.release for a in decision.actions} == {rid(2), rid(3)}
    assert decision.statuses[rid(1)].state is State.FAILED


def test_running_downloads_keep_their_room() -> None:
    bodies = {1: body(1, {"a": 60}), 2: body(2, {"a": 50})}

    decision = diff(facts(bodies, (1, 2), space={"disk": Space(100, 9)}, running={rid(1): {"a": "disk"}}))

    assert decision.statuses[rid(1)].state is State.DOWNLOADING
    assert decision.statuses[rid(2)].state is State.FAILED


def test_the_emptiest_volume_of_the_class_is_taken_unless_one_was_begun() -> None:
    given_ = facts(
        {1: body(1, {"a": 5})},
        (1,),
        space={"one": Space(10, 9), "two": Space(20, 9)},
        classes={"one": DISK, "two": DISK},
    )
    begun = replace(given_.inventory, staged={Piece(rid(1), "a"): "one"})

    assert diff(given_).actions == (Download(rid(1), {"a": "two"}, "5 bytes are missing"),)
    assert diff(replace(given_, inventory=begun)).actions == (
        Download(rid(1), {"a": "one"}, "5 bytes are missing"),
    )


def test_ram_datasets_lie_on_disk_first() -> None:
    decision = diff(facts({1: body(1, {"a": 5}, RAM)}, (1,)))

    assert decision.actions == (Download(rid(1), {"a": "disk"}, "5 bytes are missing"),)


def test_a_failure_waits_for_its_time() -> None:
    failure = Failure("no such object", NOW + 30, "2026-01-01T00:00:00Z")
    given_ = facts({1: body(1, {"a": 5})}, (1,), failures={rid(1): failure})

    early, later = diff(given_), diff(replace(given_, now=NOW + 31))

    assert early.actions == ()
    assert early.again_at == NOW + 30
    assert (early.statuses[rid(1)].state, early.statuses[rid(1)].reason) == (State.FAILED, "no such object")
    assert early.statuses[rid(1)].next_try == "2026-01-01T00:00:00Z"
    assert [type(a) for a in later.actions] == [Download]


def test_a_cordoned_node_publishes_what_it_has_and_fetches_nothing() -> None:
    bodies = {1: body(1, {"a": 5}), 2: body(2, {"a": 5})}

    decision = diff(facts(bodies, (1, 2), complete={1: ("a",)}, cordoned=True))

    assert [type(a) for a in decision.actions] == [Publish]
    assert decision.statuses[rid(2)].state is State.WAITING


@pytest.mark.parametrize(
    ("level", "least", "fetched"),
    [
        ("etag", None, True),
        ("etag", "etag", True),
        ("etag", "checksum", False),
        ("digest", "unheard-of", False),
    ],
)
def test_what_is_protected_less_than_the_channel_demands_is_not_fetched_but_stays(
    level: str, least: str | None, fetched: bool
) -> None:
    def weak(day: int) -> Release:
        made = body(day, {"a": 5})
        return replace(made, datasets={"a": replace(made.datasets["a"], integrity=level)})

    holds = {rid(d): Hold(digest=f"sha256:{d}", sequence=d, least_integrity=least) for d in (1, 2)}
    known = facts({1: weak(1), 2: weak(2)}, (1, 2), complete={1: ("a",)}, released=(1,))

    decision = diff(replace(known, desired=holds))

    assert decision.statuses[rid(1)].state is State.SUCCESS
    assert [type(a) for a in decision.actions] == ([Download] if fetched else [])
    if not fetched:
        assert decision.statuses[rid(2)].state is State.FAILED
        assert decision.statuses[rid(2)].reason == f"a has {level}, and its channel demands integrity {least}"


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_pauses_double_to_hours_and_never_to_nothing(chance: float) -> None:
    pauses = [retry_delay_s(tries, 60, chance) for tries in range(1, 1000)]

    assert 30 <= pauses[0] <= 60
    assert pauses == sorted(pauses)
    assert LONGEST_RETRY_S / 2 <= pauses[-1] <= LONGEST_RETRY_S


@dataclass
class Model:
    """A node that does what it is told; `used` releases are those with a view, which never change here."""

    bodies: dict[ReleaseId, Release]
    desired: dict[ReleaseId, Hold]
    complete: dict[Piece, str]
    released: set[ReleaseId]
    used: set[ReleaseId]
    capacity: int
    now: float = NOW
    since: dict[ReleaseId, float] = field(default_factory=dict)

    def taken(self) -> int:
        return sum(self.bodies[p.release].datasets[p.dataset].bytes for p in self.complete)

    def facts(self) -> Facts:
        inventory = Inventory(dict(self.complete), {}, frozenset(self.released))
        undesired = inventory.held - self.desired.keys()
        self.since = {r: self.since.get(r, self.now) for r in undesired}
        return Facts(
            desired=self.desired,
            bodies=self.bodies,
            inventory=inventory,
            needs={
                Piece(r, n): Space(b.datasets[n].bytes, 1)
                for r, b in self.bodies.items()
                for n in missing(r, b, inventory)
            },
            space={"disk": Space(self.capacity - self.taken(), 10**6)},
            classes={"disk": DISK},
            policy=POLICY,
            now=self.now,
            used=dict.fromkeys(self.used, "a view points to it"),
            undesired_since=self.since,
            local=frozenset([PLACES]),
        )

    def step(self, left: int) -> int:
        """Do the actions of one decision in order, at most `left` small steps, then be killed."""
        for action in diff(self.facts()).actions:
            if left <= 0:
                return 0
            left -= self._do(action, left)
            self.check()
        return left

    def _do(self, action: Withdraw | Publish | Delete | Download, left: int) -> int:
        release = action.release
        match action:
            case Withdraw():
                assert release not in self.used
                self.released.discard(release)
                return 1
            case Publish():
                self.released.add(release)
                return 1
            case Delete():
                assert release not in self.used, "what a view points to must stay"
                assert release not in self.desired, "what is desired must stay"
                self.released.discard(release)
                gone = [p for p in self.complete if p.release == release][: max(0, left - 1)]
                for piece in gone:  # a kill in between leaves the rest without a public name
                    del self.complete[piece]
                return 1 + len(gone)
            case Download(volumes=volumes):
                done = list(volumes.items())[:left]
                self.complete.update({Piece(release, name): volume for name, volume in done})
                return len(done)

    def check(self) -> None:
        assert self.taken() <= self.capacity, "budgets hold at every moment"
        for release in self.released - self.used:
            known = release in self.desired or release in self.since
            assert known
        for release, status in diff(self.facts()).statuses.items():
            if status.state is State.SUCCESS:
                assert release in self.released
                assert not missing(release, self.bodies[release], Inventory(self.complete))


@st.composite
def models(draw: st.DrawFn) -> Model:
    days = draw(st.lists(st.integers(1, 28), unique=True, min_size=1, max_size=6))
    sizes = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 50), min_size=1)
    bodies = {rid(day): body(day, draw(sizes)) for day in days}
    chosen = st.sets(st.sampled_from(sorted(bodies)))
    complete = {
        Piece(r, n): "disk" for r in sorted(bodies) for n in bodies[r].datasets if draw(st.booleans())
    }
    whole = {r for r, b in bodies.items() if all(Piece(r, n) in complete for n in b.datasets)}
    held = sum(bodies[p.release].datasets[p.dataset].bytes for p in complete)
    return Model(
        bodies=bodies,
        desired={r: Hold(digest="x", sequence=1) for r in draw(chosen)},
        complete=complete,
        released=whole & draw(chosen),
        used=whole & draw(chosen),
        capacity=held + draw(st.integers(0, 200)),
    )


@settings(max_examples=200, deadline=None)
@given(model=models(), kills=st.lists(st.integers(0, 4), max_size=8))
def test_any_node_converges_from_every_interruption_point(model: Model, kills: list[int]) -> None:
    before = set(model.desired) & model.released
    for left in kills:  # killed after so many small steps, then started anew
        model.step(left)
        model.now += 30
    for _ in range(20):
        model.now += 4000  # every grace is over
        model.step(10**6)

    decision = diff(model.facts())
    assert decision.actions == ()
    assert before <= model.released
    held = {p.release for p in model.complete} | model.released
    assert held - model.used <= model.desired.keys()
    for release, status in decision.statuses.items():
        if status.state is State.FAILED:
            need = sum(
                d.bytes
                for n, d in model.bodies[release].datasets.items()
                if Piece(release, n) not in model.complete
            )
            assert need > model.capacity - model.taken()
        elif status.state is State.WAITING:
            assert "waits until" in status.reason
            assert model.used - model.desired.keys()
        else:
            assert status.state is State.SUCCESS


@settings(max_examples=100, deadline=None)
@given(model=models())
def test_the_decision_depends_on_nothing_else(model: Model) -> None:
    given_ = model.facts()

    shuffled = replace(
        given_,
        desired=dict(reversed(list(given_.desired.items()))),
        bodies=dict(reversed(list(given_.bodies.items()))),
    )

    assert diff(given_) == diff(shuffled)
