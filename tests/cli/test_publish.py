"""`hydra publish` on a Consul and an S3 in memory: which data is found, and what is written."""

from __future__ import annotations

import pytest
from msgspec.structs import asdict

from handlers.adapters.ports import Cas, CheckIndex, Source
from handlers.core import codec, keys, model
from handlers.core.names import InstanceKey, Service
from handlers.core.version import Version
from tests.cli.desk import NOW, PLACES, TWO_DATASETS, Desk, v

HEAD = keys.head(PLACES)


def header(desk: Desk, day: int) -> model.Release:
    raw = desk.value(keys.release(PLACES, v(day)))
    assert raw is not None
    return codec.decode(model.Release, raw, "release")


def manifest(desk: Desk, day: int) -> model.Manifest:
    raw = desk.value(keys.manifest(PLACES, v(day)))
    assert raw is not None
    return codec.decode(model.Manifest, raw, "manifest")


def one_dataset(source: str, **more: str) -> str:
    fields = {"SourcePath": source, "Placement": "DISK"} | more
    return f"DATA_TEMPLATE = {{'index': {fields}}}"


def test_first_release_is_one_transaction_of_header_files_head_settings_and_history(desk: Desk) -> None:
    desk.data(1)
    desk.data(2, body=b"yy")

    answer = desk.publish("--note", "fresh", "--label", "build=7", "-o", "json")

    assert answer.code == 0, answer
    assert answer.json["result"] == "published"
    assert (answer.json["version"], answer.json["sequence"], answer.json["head_before"]) == (v(2), 1, None)
    release, files = header(desk, 2), manifest(desk, 2).files
    assert (release.sequence, release.note, release.labels, release.who) == (
        1,
        "fresh",
        {"build": "7"},
        "eve",
    )
    index, ranks = release.datasets["index"], release.datasets["ranks"]
    assert (index.source, index.placement, index.files, index.bytes) == (
        f"s3://data/index/{v(2)}/",
        "DISK",
        2,
        6,
    )
    assert (ranks.source, ranks.placement, ranks.files, ranks.bytes) == (
        f"s3://data/ranks/{v(2)}/ranks.bin",
        "RAM",
        1,
        6,
    )
    assert [(f.path, f.size) for f in files["index"]] == [("a", 2), ("b/c", 4)]
    assert [(f.path, f.size) for f in files["ranks"]] == [("ranks.bin", 6)]
    assert release.manifest.digest == codec.digest(desk.value(keys.manifest(PLACES, v(2))) or b"")
    assert desk.value(HEAD) == v(2).encode()
    assert [entry.action for entry in desk.audit()] == ["published"]
    [txn] = desk.kv.txns
    assert all(isinstance(op, (Cas, CheckIndex)) for op in txn)


def test_sequence_goes_on_after_the_highest_and_the_head_moves(desk: Desk) -> None:
    desk.data(1)
    desk.publish()
    desk.data(2)

    assert desk.publish("-o", "json").json["sequence"] == 2
    older = desk.publish("-o", "json", "--version", v(1))
    assert older.json["result"] == "unchanged"
    assert f"the head is {v(2)}, not this release" in older.err
    assert desk.value(HEAD) == v(2).encode()
    assert [(e.before, e.after) for e in desk.audit()] == [("", v(1)), (v(1), v(2))]


def test_publishing_again_changes_nothing(desk: Desk) -> None:
    desk.data(1)
    desk.publish()
    before = desk.everything()

    answer = desk.publish()

    assert answer.code == 0
    assert answer.out.startswith(f"unchanged: {v(1)} of {PLACES} is published already")
    assert desk.everything() == before


@pytest.mark.parametrize("change", ["file", "placement", "fewer"])
def test_same_version_with_other_content_is_a_conflict(desk: Desk, change: str) -> None:
    desk.data(1)
    desk.publish()
    before = desk.everything()
    text = TWO_DATASETS
    if change == "file":
        desk.objects.write(f"s3://data/index/{v(1)}/a", b"z")
    elif change == "placement":
        text = TWO_DATASETS.replace("RAM", "DISK")
    else:
        text = one_dataset("s3://data/index/{VERSION_PLACEHOLDER}/")

    answer = desk.run("publish", desk.template(text), "--channel", PLACES)

    assert answer.code == 5
    assert "published already with other content" in answer.err
    assert desk.everything() == before


def test_release_of_another_publisher_in_other_bytes_is_still_the_same(desk: Desk) -> None:
    """Whoever writes the keys without this program need not write JSON as it does."""
    desk.data(1)
    desk.publish()
    raw = (desk.value(keys.manifest(PLACES, v(1))) or b"").replace(b"\n", b" ")
    release = header(desk, 1)
    ref = model.ManifestRef(digest=codec.digest(raw), bytes=len(raw))
    desk.kv.put(keys.manifest(PLACES, v(1)), raw)
    fields = {**asdict(release), "manifest": ref}
    desk.kv.put(keys.release(PLACES, v(1)), codec.encode(model.Release(**fields)))

    assert desk.publish("-o", "json").json["result"] == "unchanged"


def test_dry_run_writes_nothing_and_shows_the_transaction(desk: Desk) -> None:
    desk.data(1)
    before = desk.everything()

    answer = desk.publish("--dry-run", "--detailed-exitcode", "-o", "json")

    assert answer.code == 3
    assert answer.json["result"] == "planned"
    written = {row["KV"]["Key"] for row in answer.json["txn"] if row["KV"]["Verb"] == "cas"}
    assert {keys.release(PLACES, v(1)), keys.manifest(PLACES, v(1)), HEAD, keys.settings(PLACES)} < written
    assert desk.everything() == before
    assert desk.publish("--dry-run").code == 0
    desk.publish()
    assert desk.publish("--dry-run", "--detailed-exitcode").code == 0


def test_marker_decides_whether_a_version_counts(desk: Desk) -> None:
    desk.data(1)
    desk.data(2)
    desk.objects.write(f"s3://data/index/{v(1)}/_SUCCESS", b"")
    text = one_dataset("s3://data/index/{VERSION_PLACEHOLDER}/", Marker="_SUCCESS")

    answer = desk.run("publish", desk.template(text), "--channel", PLACES, "-o", "json")

    assert answer.json["version"] == v(1)
    assert [f.path for f in manifest(desk, 1).files["index"]] == ["_SUCCESS", "a", "b/c"]


def test_own_rhythm_is_recorded_and_waits_for_the_next_release(desk: Desk) -> None:
    text = TWO_DATASETS.replace('"Placement": RAM', '"Placement": RAM, "Version": "own"')
    desk.data(3)
    desk.objects.write(f"s3://data/index/{v(5)}/a", b"x")
    publish = ("publish", desk.template(text), "--channel", PLACES, "-o", "json")

    first = desk.run(*publish).json
    desk.objects.write(f"s3://data/ranks/{v(9)}/ranks.bin", b"newer")
    again = desk.run(*publish)

    assert (first["version"], first["datasets"]["ranks"]["version"]) == (v(5), v(3))
    assert again.json["result"] == "unchanged"
    assert f"ranks has a newer version {v(9)}" in again.err


def test_version_in_the_future_does_not_count_and_is_refused_when_asked_for(desk: Desk) -> None:
    desk.data(1)
    future = Version("2026-06-01T12-00-01")
    desk.objects.write(f"s3://data/index/{future}/a", b"x")
    desk.objects.write(f"s3://data/ranks/{future}/ranks.bin", b"x")

    refused = desk.publish("--version", future)

    assert (refused.code, NOW.hour) == (2, 12)
    assert "is in the future" in refused.err
    assert desk.publish("-o", "json").json["version"] == v(1)


def test_datasets_that_differ_are_refused_with_a_table(desk: Desk) -> None:
    desk.data(1)
    desk.objects.write(f"s3://data/index/{v(2)}/a", b"x")
    before = desk.everything()

    answer = desk.publish()

    assert answer.code == 11
    assert f"  index    {v(2)}  {v(1)}" in answer.err
    assert f"  ranks    {v(1)}" in answer.err
    assert desk.everything() == before
    assert desk.publish("--version", v(1)).code == 0


def test_folder_keys_are_skipped_and_empty_files_are_data(desk: Desk) -> None:
    desk.data(1)
    desk.objects.write(f"s3://data/index/{v(1)}/", b"")
    desk.objects.write(f"s3://data/index/{v(1)}/b/", b"")
    desk.objects.write(f"s3://data/index/{v(1)}/empty", b"")

    assert desk.publish().code == 0
    assert [(f.path, f.size) for f in manifest(desk, 1).files["index"]] == [
        ("a", 1),
        ("b/c", 2),
        ("empty", 0),
    ]


def test_long_list_of_files_becomes_an_object_beside_the_data(desk: Desk) -> None:
    for number in range(6_000):
        desk.objects.write(f"s3://data/index/{v(1)}/{number:06d}-{'x' * 30}", b"x")
    desk.objects.write(f"s3://data/ranks/{v(1)}/ranks.bin", b"x")

    answer = desk.publish("-o", "json")

    place = Source.parse(answer.json["manifest"]["object"])
    assert place.key.startswith(f"index/.hydra/manifests/{PLACES}/{v(1)}-")
    body = desk.objects.buckets[place.bucket][place.key]
    assert codec.digest(body) == answer.json["manifest"]["digest"] == header(desk, 1).manifest.digest
    assert len(codec.decode(model.Manifest, body, "object").files["index"]) == 6_000
    there = codec.decode(model.ManifestElsewhere, desk.value(keys.manifest(PLACES, v(1))) or b"", "manifest")
    assert (there.object, there.digest) == (str(place), codec.digest(body))
    assert desk.publish("-o", "json").json["result"] == "unchanged"


def test_data_that_appears_while_waiting_is_published(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydra_cli.publish.SOURCE_PAUSE_S", 0.01)
    looks = []

    def appear(_: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            desk.data(1)

    monkeypatch.setattr("hydra_cli.publish.time.sleep", appear)

    answer = desk.publish("--wait-source", "1m")

    assert answer.code == 0
    assert answer.err.count("waiting for the data") == 1


def test_data_that_does_not_appear_in_time_is_not_ready(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydra_cli.publish.SOURCE_PAUSE_S", 0.01)

    assert desk.publish("--wait-source", "0.05s").code == 11


def test_names_may_come_from_options_or_environment(desk: Desk) -> None:
    desk.data(1)
    by_options = ("publish", desk.template(), "--env", "prod", "-n", "search", "--release", "places")
    desk.ok(*by_options)
    desk.environ |= {"HYDRA_ENV": "prod", "HYDRA_NAMESPACE": "search"}

    assert (
        desk.ok("publish", desk.template(), "--release", "places", "-o", "json").json["result"] == "unchanged"
    )
    assert desk.ok("channel", "show", "places", "-o", "json").json["channel"] == PLACES


def test_release_that_does_not_fit_is_refused_unless_space_is_ignored(desk: Desk) -> None:
    desk.data(1)
    _node(desk, "n1", free=1_000_000)
    _node(desk, "n2", free=100)
    _node(desk, "n3", free=100, alive=False)
    before = desk.everything()

    planned = desk.ok("publish", desk.template(), "--channel", PLACES, "--dry-run", "-o", "json").json
    shown = desk.publish("--dry-run").out
    refused = desk.publish()

    assert {n["node"]: n["space"] for n in planned["nodes"]} == {
        "n1": "fits",
        "n2": "does not fit",
        "n3": "unknown",
    }
    assert "the node is not alive" in shown
    assert refused.code == 10
    assert "does not fit on 1 of 3 nodes: n2:" in refused.err
    assert desk.everything() == before
    assert desk.publish("--ignore-space").code == 0


def _node(desk: Desk, name: str, free: int, alive: bool = True) -> None:
    """A node with an instance of a service that reads the channel, and so much room."""
    api, key = Service("prod/search/api"), InstanceKey.of(Service("prod/search/api"), name)
    volumes = {"disk": model.VolumeInfo(cls=model.DISK)}
    use = {"disk": model.VolumeUse(size=10**7, free=free, files=1000)}
    documents: dict[str, model.Doc] = {
        keys.subscription(api): model.Subscription(channels={"places": PLACES}),
        keys.info(name): model.NodeInfo(node=name, volumes=volumes),
        keys.instances(name): model.Instances(
            instances={key: model.Instance(service=api, id=name, incarnation="1")}
        ),
        keys.actual(name): model.Actual(node=name, generation=1),
        keys.progress(name): model.Progress(node=name, volumes=use, when="2026-06-01T11:50:00Z"),
    }
    desk.put({key: codec.encode(document) for key, document in documents.items()})
    if alive:
        desk.put({keys.alive(name): b"session"})


def test_staged_release_is_published_without_becoming_the_head(desk: Desk) -> None:
    desk.init()
    desk.data(1)
    assert desk.publish().code == 0
    desk.data(2)

    answer = desk.publish("--stage")

    assert answer.code == 0
    assert "staged; the head stays 2026-01-01T00-00-00" in answer.out
    assert desk.value(keys.head(PLACES)) == v(1).encode()
    staged = codec.decode(model.Staged, desk.value(keys.staged(PLACES)) or b"", "it")
    assert staged.version == v(2)
    assert desk.value(keys.release(PLACES, v(2))) is not None
    assert desk.publish("--stage", "--wait").code == 2
