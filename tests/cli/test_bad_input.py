"""Bad input: a clear error, its exit code, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from handlers.core import codec, keys, model
from handlers.core.names import Channel, Service
from tests.cli.desk import PLACES, TWO_DATASETS, Desk, v

SERVICE = Service("prod/search/completion")
LONG = "a" * 64
V1 = f"index/{v(1)}"
BAD_NAMES = {
    "dots": "..",
    "slash": "a/b",
    "space": "a b",
    "capital": "Places",
    "long": LONG,
    "empty": "",
    "dash": "-a",
}
INDEX = '{"index": {"SourcePath": "s3://data/index/{VERSION_PLACEHOLDER}/", "Placement": 0}}'


def refuse(desk: Desk, code: int, message: str, *args: str) -> None:
    """Run, and see the exit code, the message, no traceback, no data, nothing written."""
    before, stored = desk.everything() if not desk.kv.away else {}, repr(desk.objects.buckets)

    answer = desk.run(*args)

    assert answer.code == code, answer
    assert message in answer.err
    assert answer.err.startswith("error: ")
    assert "Traceback" not in answer.err
    assert answer.out == ""
    if not desk.kv.away:
        assert desk.everything() == before
    assert repr(desk.objects.buckets) == stored
    assert desk.kv.txns == []


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
@pytest.mark.parametrize("option", ["--env", "-n", "--release"])
def test_illegal_names_are_refused(desk: Desk, option: str, name: str) -> None:
    desk.data(1)
    given = {"--env": "prod", "-n": "search", "--release": "places"} | {option: name}
    words = [word for pair in given.items() for word in pair]

    refuse(desk, 2, "is missing" if name == "" else "is not a legal name", "publish", desk.template(), *words)


@pytest.mark.parametrize("name", ["prod/search", "prod/search/a/b", "prod//a", "prod/../a", "/prod/search/a"])
def test_illegal_channels_are_refused(desk: Desk, name: str) -> None:
    desk.data(1)

    refuse(desk, 2, "", "publish", desk.template(), "--channel", name)


@dataclass(frozen=True)
class Case:
    """A template, what is on S3, and how publishing it ends."""

    template: str
    code: int
    message: str
    data: Callable[[Desk], object] = lambda desk: desk.data(1)


def put(*keys_: str, body: bytes = b"x") -> Callable[[Desk], object]:
    """Keys as they are: a real server takes any."""
    return lambda desk: desk.objects.buckets.setdefault("data", {}).update(dict.fromkeys(keys_, body))


def many(desk: Desk) -> None:
    desk.objects.buckets["data"] = {f"index/{v(1)}/{n:06d}": b"x" for n in range(100_001)}


CASES = {
    "unknown-placement": Case(INDEX.replace("0}", '"TAPE"}'), 2, "Placement 'TAPE' is none of"),
    "no-source-path": Case('{"index": {"Placement": 0}}', 2, "dataset 'index': SourcePath is missing"),
    "does-not-load": Case("{", 2, "not JSON"),
    "not-what-it-should-be": Case("[]", 2, "must map names of datasets"),
    "no-such-object": Case(
        '{"r": {"SourcePath": "s3://data/ranks/{VERSION_PLACEHOLDER}/none.bin", "Placement": 0}}', 11,
        f"{v(1)} has no object s3://data/ranks/{v(1)}/none.bin",
    ),
    "no-version": Case(INDEX.replace("index/", "nothing/"), 11, "nothing like a version below s3://data/nothing/"),
    "no-bucket": Case(INDEX.replace("//data/", "//missing/"), 11, "no such bucket"),
    "no-bytes": Case(INDEX, 11, "has 0 bytes in all", put(f"index/{v(1)}/a", body=b"")),
    "only-folder-keys": Case(INDEX, 11, "has no object below", put(f"index/{v(1)}/")),
    "hostile-key": Case(INDEX, 2, "'../../etc/passwd' is not a legal path", put(f"{V1}/../../etc/passwd")),
    "absolute-key": Case(INDEX, 2, "'/etc/passwd' is not a legal path", put(f"{V1}//etc/passwd")),
    "newline-in-key": Case(INDEX, 2, "it has control characters", put(f"{V1}/a\nb")),
    "long-key": Case(INDEX, 2, "is longer than", put(f"{V1}/{'x' * 256}")),
    "file-and-folder": Case(INDEX, 2, "'a' is a file and a folder at once", put(f"{V1}/a", f"{V1}/a/b")),
    "too-many-files": Case(INDEX, 2, "more than 100000 files below", many),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_cannot_be_published_is_refused(desk: Desk, case: Case) -> None:
    case.data(desk)

    refuse(
        desk, case.code, case.message, "publish", desk.template(case.template, "t.json"), "--channel", PLACES
    )


def test_hundred_thousand_files_over_several_datasets_are_too_many(desk: Desk) -> None:
    keys_ = {f"{name}/{v(1)}/{n:06d}": b"x" for name in ("index", "ranks") for n in range(50_001)}
    desk.objects.buckets["data"] = keys_
    both = TWO_DATASETS.replace("ranks.bin", "")

    refuse(desk, 2, "100002 files in this release", "publish", desk.template(both), "--channel", PLACES)


def test_environment_that_is_not_served_is_refused(desk: Desk) -> None:
    desk.data(1)

    refuse(
        desk, 2, "unknown environment 'stage': this Consul serves prod",
        "publish", desk.template(), "--channel", "stage/search/places",
    )  # fmt: skip


def test_consul_without_hydra_is_refused(desk: Desk) -> None:
    desk.data(1)
    desk.kv = type(desk.kv)()

    refuse(desk, 2, "run `hydra init --env prod`", "publish", desk.template(), "--channel", PLACES)


def test_no_consul_is_unavailable(desk: Desk) -> None:
    desk.data(1)
    desk.kv.away = True

    refuse(desk, 10, "no answer from Consul", "publish", desk.template(), "--channel", PLACES)


def test_no_object_store_is_unavailable(desk: Desk) -> None:
    desk.objects.away = True

    refuse(desk, 10, "S3 does not answer", "publish", desk.template(), "--channel", PLACES)


def test_no_permission_in_consul_is_denied(desk: Desk) -> None:
    desk.data(1)
    desk.kv.denied.add(keys.RELEASES)

    answer = desk.publish()

    assert (answer.code, "Permission denied" in answer.err, desk.kv.txns) == (4, True, [])


def test_no_permission_in_the_object_store_is_denied(desk: Desk) -> None:
    desk.data(1)
    desk.objects.denied.add("data")

    refuse(desk, 4, "S3 refused", "publish", desk.template(), "--channel", PLACES)


def test_subscription_to_a_missing_channel_is_refused(desk: Desk) -> None:
    refuse(
        desk,
        2,
        f"{SERVICE} cannot read {PLACES}: it does not exist",
        "subscribe",
        SERVICE,
        "--channel",
        PLACES,
    )


def test_aliases_that_collide_are_refused(desk: Desk) -> None:
    for name in (PLACES, Channel("prod/maps/places")):
        desk.kv.put(keys.settings(name), codec.encode(model.ChannelSettings()))

    refuse(
        desk, 2, "alias 'places' would stand for prod/search/places and prod/maps/places",
        "subscribe", SERVICE, "--channel", PLACES, "--channel", "prod/maps/places",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("publish",), "Missing argument 'TEMPLATE'"),
        (("publish", "t.py", "--version", "yesterday"), "'yesterday' is not a date and time like"),
        (("publish", "t.py", "--timeout", "soon"), "'soon' is not a duration like 90s"),
        (("publish", "t.py", "--label", "x"), "'x' is not KEY=VALUE"),
        (("publish", "t.py", "--label", "a b=x"), "'a b' is no name of a label"),
        (("publish", "none.py", "--channel", PLACES), "none.py: No such file"),
        (("publish", "t.py", "--channel", PLACES, "--release", "x"), "not both"),
        (("publish", "t.py", "--channel", PLACES, "--wait", "--dry-run"), "--dry-run publishes nothing"),
        (("publish", "t.py"), "which channel? the environment is missing"),
        (("nonsense",), "No such command 'nonsense'"),
        (("channel", "show", PLACES), f"there is no channel {PLACES}"),
        (("channel", "set-head", PLACES, v(1)), f"there is no channel {PLACES}"),
        (("rollback", PLACES), f"there is no channel {PLACES}"),
        (("reject", PLACES, v(1)), f"there is no channel {PLACES}"),
        (("pin", PLACES, v(1)), f"nothing is called '{PLACES}'"),
        (("pin", "node/n1", v(1)), "nodes are not pinned"),
        (("unsubscribe", SERVICE), "is not subscribed to anything"),
        (("rollout", "pause", SERVICE), "is not subscribed to any channel"),
        (("subscribe", SERVICE), "which channels does"),
        (("register", SERVICE, "one", "--node", "n9"), "there is no node 'n9'; none is known yet"),
        (("deregister", SERVICE, "one", "--node", "n9"), "no instance 'one'"),
        (("node", "cordon", "n9"), "there is no node 'n9'"),
        (("node", "forget", "n9"), "there is no node 'n9'"),
        (("status", "node/n9"), "there is no node/n9"),
        (("status", "prod/a/b"), "nothing is called 'prod/a/b'"),
        (("view", SERVICE), f"there is no service {SERVICE}"),
        (("history", "prod/a/b"), "nothing is called 'prod/a/b'"),
        (("init", "--env", "a b"), "environment 'a b' is not a legal name"),
    ],
)
def test_unknown_names_and_wrong_options_are_usage_errors(
    desk: Desk, args: tuple[str, ...], message: str
) -> None:
    desk.template(name="t.py")
    words = [str(desk.folder / word) if word == "t.py" else word for word in args]

    refuse(desk, 2, message, *words)
