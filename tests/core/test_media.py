"""What is in RAM: one version per dataset, dropped when nobody reads it, filled where there is room."""

from hypothesis import given
from hypothesis import strategies as st

from handlers.core.holdings import Piece
from handlers.core.media import RamSteps, ram_steps, used, wanted
from handlers.core.model import AliasPlan, Desired, InstanceState, Ready, ServicePlan
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId, Version

S = Service("prod/search/api")
C, D = Channel("prod/search/places"), Channel("prod/search/ranks")
V1, V2 = Version("2026-01-01T00-00-00"), Version("2026-01-02T00-00-00")
OLD, NEW = Piece(ReleaseId.of(C, V1), "table"), Piece(ReleaseId.of(C, V2), "table")
OTHER = Piece(ReleaseId.of(D, V1), "table")


def state(**changes: object) -> InstanceState:
    fields: dict[str, object] = {"releases": {"places": V1}, "media": {"places/table": "RAM"}, **changes}
    return InstanceState(service=S, id="a", incarnation="1", state=Ready.READY, **fields)  # type: ignore[arg-type]


def desired(*services: Service) -> Desired:
    plan = ServicePlan(aliases={"places": AliasPlan(channel=C, target=V2, start=V1)})
    return Desired(node="n", generation=1, services=dict.fromkeys(services, plan), ram={f"{C}/table": V2})


def test_wanted_copies_are_named_by_channel_and_dataset() -> None:
    assert wanted(desired()) == {NEW}


def test_a_copy_that_fits_is_filled_beside_the_old_one() -> None:
    assert ram_steps({NEW}, {OLD}, {OLD}, {OLD}, {NEW: 10}, room=10) == RamSteps(fill=(NEW,))


def test_a_copy_that_does_not_fit_says_so_in_numbers() -> None:
    steps = ram_steps({NEW}, {OLD}, {OLD}, {OLD}, {NEW: 10}, room=9)

    assert (steps.drop, steps.fill) == ((), ())
    assert "takes 10 bytes of RAM, 9 are free" in steps.short[NEW]


def test_what_nobody_reads_is_dropped_before_anything_is_filled() -> None:
    assert ram_steps({NEW}, {OLD}, {OLD}, (), {NEW: 10}, room=9) == RamSteps(drop=(OLD,))


def test_a_copy_whose_release_is_not_here_yet_waits() -> None:
    assert ram_steps({NEW}, (), (), (), {}, room=99) == RamSteps()


def test_a_copy_that_nothing_points_to_is_linked_without_room() -> None:
    assert ram_steps({NEW}, {NEW}, (), (), {NEW: 0}, room=0) == RamSteps(fill=(NEW,))


def test_copies_are_used_by_what_was_loaded_from_ram() -> None:
    key = InstanceKey.of(S, "a")

    assert used({key: state()}, desired(S), {OLD, NEW, OTHER}) == {OLD}
    assert used({key: state(moving={"places": V2})}, desired(S), {OLD, NEW}) == {OLD, NEW}
    assert used({key: state(media={})}, desired(S), {OLD, NEW}) == set()


def test_copy_of_the_channel_that_an_alias_read_before_is_used_until_it_moves() -> None:
    key = InstanceKey.of(S, "a")
    before = state(channels={"places": D})

    assert used({key: before}, desired(S), {OLD, NEW, OTHER}) == {OLD, OTHER}


def test_without_a_plan_every_copy_that_may_be_meant_is_used() -> None:
    assert used({InstanceKey.of(S, "a"): state()}, desired(), {OLD, NEW, OTHER}) == {OLD, OTHER}


pieces = st.sets(
    st.builds(Piece, st.sampled_from([OLD.release, NEW.release, OTHER.release]), st.sampled_from("abc"))
)


@given(
    pieces,
    pieces,
    pieces,
    st.dictionaries(st.sampled_from([OLD, NEW, OTHER]), st.integers(0, 9)),
    st.integers(0, 20),
)
def test_used_copies_stay_and_fills_fit(
    want: set[Piece], copies: set[Piece], in_use: set[Piece], sizes: dict[Piece, int], room: int
) -> None:
    steps = ram_steps(want, copies, copies, in_use, sizes, room)

    assert not set(steps.drop) & (want | in_use)
    assert sum(sizes[piece] for piece in steps.fill) <= room
    assert set(steps.fill) <= want - copies
