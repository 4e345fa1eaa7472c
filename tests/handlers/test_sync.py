"""What `sync` does on a node: real folders, KV and objects in memory, the handler run again and again."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from handlers import doorbell
from handlers.adapters.local import LocalState
from handlers.adapters.ports import Delete, Source
from handlers.core import codec, keys
from handlers.core.errors import HydraError, Temporary
from handlers.core.model import RAM, Release, State, VolumeInfo
from handlers.core.names import Channel
from tests.handlers.sync_node import NODE, PLACES, Node, value_of
from tests.servers import wait_until

NEWS = Channel("prod/search/news")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "root")


def test_a_desired_release_arrives_whole(node: Node) -> None:
    release = node.publish(1)
    node.desire(5, release)

    said = node.run()

    assert said == "generation 5: 1 success"
    assert node.complete(release)
    assert node.status(release).state is State.SUCCESS
    assert node.status(release).integrity == {"index": "etag"}
    assert node.actual().generation == 5
    assert not node.leftovers()


def test_what_is_public_is_read_only(node: Node) -> None:
    release = node.publish(1)
    node.desire(1, release)
    node.run()

    modes = {p.name: p.stat().st_mode & 0o777 for p in node.data(release).rglob("*")}

    assert modes == {"index": 0o555, "a": 0o444, "sub": 0o555, "b": 0o444, "empty": 0o444}


def test_links_are_relative_so_that_the_root_can_be_mounted_elsewhere(node: Node, tmp_path: Path) -> None:
    release = node.publish(1)
    node.desire(1, release)
    node.run()

    node.root = node.root.rename(tmp_path / "elsewhere")

    assert node.complete(release)


def test_a_second_run_writes_nothing_and_asks_s3_for_nothing(node: Node) -> None:
    release = node.publish(1)
    node.desire(1, release)
    node.run()
    writes, reads = len(node.fake_kv.txns), len(node.fake_objects.reads)

    node.run()

    assert (len(node.fake_kv.txns), len(node.fake_objects.reads)) == (writes, reads)


def test_a_converged_node_knows_the_doorbell(node: Node) -> None:
    node.desire(1, node.publish(1))
    node.run()

    entry, _ = node.kv.get(keys.desired(NODE))

    assert entry is not None
    assert LocalState(node.root).read(doorbell.name("sync")) == doorbell.text(entry.index, entry.value)


def test_a_node_that_is_not_converged_does_not_know_the_doorbell(node: Node) -> None:
    release = node.publish(1)
    node.fake_objects.buckets["bucket"].pop(f"{PLACES}/{release.version}/index/a")
    node.desire(1, release)
    node.run()

    assert LocalState(node.root).read(doorbell.name("sync")) is None


def test_ram_datasets_are_kept_on_disk(node: Node) -> None:
    release = node.publish(1, placement=RAM)
    node.desire(1, release)
    node.run()

    assert node.complete(release)
    assert node.data(release, "disk").exists()
    assert not node.data(release, "ram").exists()


def test_a_named_class_goes_to_its_volume_and_a_missing_class_is_told(node: Node) -> None:
    node.volumes = {**node.volumes, "fast": VolumeInfo(cls="nvme")}
    fits = node.publish(1, placement="nvme")
    other = node.publish(2, placement="tape")
    node.desire(1, fits, other)
    node.run()

    assert node.complete(fits)
    assert node.data(fits, "fast").exists()
    assert node.status(other).state is State.FAILED
    assert "no volume of class tape" in node.status(other).reason


def test_a_manifest_beside_the_data_is_read_and_checked(node: Node) -> None:
    release, wrong = node.publish(1, beside=True), node.publish(2, beside=True)
    place = f"{PLACES}/{wrong.version}/manifest.json"
    body = node.fake_objects.buckets["bucket"][place]
    node.fake_objects.buckets["bucket"][place] = body.replace(b'"a"', b'"c"')
    node.desire(1, release, wrong)
    node.run()

    assert node.complete(release)
    assert node.status(wrong).state is State.FAILED
    assert "digest" in node.status(wrong).reason


def test_one_missing_object_keeps_the_release_away_and_the_others_come(node: Node) -> None:
    many = {"index": {f"f{n}": bytes([n]) * 100 for n in range(20)}, "table": {"t": b"t"}}
    broken, good = node.publish(1, many), node.publish(2)
    node.fake_objects.buckets["bucket"].pop(f"{PLACES}/{broken.version}/index/f7")
    node.desire(1, broken, good)

    assert node.run() == "generation 1: 1 success, 1 failed"
    assert node.complete(good)
    assert not node.folder(broken).exists()
    status = node.status(broken)
    assert status.state is State.FAILED
    assert f"s3://bucket/{PLACES}/{broken.version}/index/f7" in status.reason
    assert status.next_try


def test_a_failed_release_is_tried_again_after_its_time_and_only_then(node: Node) -> None:
    release = node.publish(1)
    key = f"{PLACES}/{release.version}/index/a"
    body = node.fake_objects.buckets["bucket"].pop(key)
    node.desire(1, release)
    node.run()
    node.fake_objects.buckets["bucket"][key] = body
    reads = len(node.fake_objects.reads)

    node.now += 20  # the first pause is 30 to 60 s
    node.run()
    assert node.status(release).state is State.FAILED
    assert len(node.fake_objects.reads) == reads

    node.now += 60
    node.run()
    assert node.complete(release)
    assert node.status(release).state is State.SUCCESS


def test_pauses_between_tries_grow_to_hours(node: Node) -> None:
    release = node.publish(1)
    node.fake_objects.buckets["bucket"].clear()
    node.desire(1, release)
    pauses = []
    for _ in range(12):
        node.run()
        row = json.loads(LocalState(node.root).read("sync/failures") or b"")[release]
        pauses.append(row["next_try"] - node.now)
        node.now = row["next_try"] + 1

    assert 30 <= pauses[0] <= 60
    assert pauses[-1] > 3600
    assert max(pauses) <= 4 * 3600


def test_a_replaced_object_fails_the_release_by_name_even_in_the_middle(node: Node) -> None:
    release = node.publish(1, {"index": {"big": b"x" * 100_000}})
    objects = node.fake_objects
    objects.piece_bytes = 10_000
    key = f"{PLACES}/{release.version}/index/big"

    def replace(source: Source, at: int) -> None:
        if at == 50_000:
            objects.buckets["bucket"][key] = b"y" * 100_000
            raise Temporary("the connection broke")

    objects.before_piece = replace
    node.desire(1, release)
    node.run()

    assert node.status(release).state is State.FAILED
    assert f"s3://bucket/{key}" in node.status(release).reason
    assert not node.folder(release).exists()


def test_a_cut_body_goes_on_from_the_last_byte(node: Node) -> None:
    body = bytes(range(256)) * 400
    release = node.publish(1, {"index": {"big": body}})
    objects = node.fake_objects
    objects.piece_bytes = 10_000
    cuts = iter([20_000, 50_000, 90_000])
    following = [next(cuts)]

    def cut(source: Source, at: int) -> None:
        if at >= following[0]:
            following[0] = next(cuts, 10**9)
            raise Temporary("the connection broke")

    objects.before_piece = cut
    node.desire(1, release)
    node.run()

    assert node.complete(release)
    assert [start for _, start, _ in objects.reads] == [0, 20_000, 50_000, 90_000]


def test_finished_files_are_not_fetched_again(node: Node) -> None:
    files = {f"f{n}": bytes([n]) * 5000 for n in range(10)}
    release = node.publish(1, {"index": files})
    key = f"{PLACES}/{release.version}/index/f9"
    body = node.fake_objects.buckets["bucket"].pop(key)
    node.limit(streams=1)
    node.desire(1, release)
    node.run()
    node.fake_objects.buckets["bucket"][key] = body
    node.fake_objects.reads.clear()
    node.now += 100
    node.run()

    assert node.complete(release)
    assert [k for k, *_ in node.fake_objects.reads] == [key]


def test_a_release_that_does_not_fit_fails_with_the_numbers(node: Node) -> None:
    node.volumes = {"disk": VolumeInfo(cls="DISK", budget_bytes=3_000_000)}
    big, small = node.publish(1, {"index": {"big": b"x" * 4_000_000}}), node.publish(2)
    node.desire(1, big, small)
    node.run()

    assert node.complete(small)
    assert node.status(big).state is State.FAILED
    assert "index needs 40" in node.status(big).reason
    assert "on volume disk, free above its reserve are 2" in node.status(big).reason


def test_room_of_undesired_releases_is_waited_for(node: Node) -> None:
    node.volumes = {"disk": VolumeInfo(cls="DISK", budget_bytes=3_000_000)}
    old = node.publish(1, {"index": {"big": b"x" * 2_000_000}})
    new = node.publish(2, {"index": {"big": b"y" * 2_000_000}})
    node.desire(1, old)
    node.run()
    node.desire(2, new)
    node.run()
    assert node.status(new).state is State.WAITING
    assert "waits until" in node.status(new).reason

    node.now += 3601
    node.run()
    assert node.complete(new)
    assert not node.folder(old).exists()


def test_a_cordoned_node_takes_nothing_new(node: Node) -> None:
    old, new = node.publish(1), node.publish(2)
    node.desire(1, old)
    node.run()
    node.desire(2, old, new, cordoned=True)
    node.run()

    assert node.complete(old)
    assert node.status(new).state is State.WAITING
    assert "cordoned" in node.status(new).reason


def test_an_emptied_disk_is_refilled(node: Node) -> None:
    release = node.publish(1, {"index": {"a": b"a"}, "table": {"t": b"t"}})
    node.desire(1, release)
    node.run()
    shutil.rmtree(node.root / "volumes" / "disk" / "data")
    node.run()
    assert node.complete(release)

    shutil.rmtree(node.data(release) / "table")
    node.run()
    assert node.complete(release)

    shutil.rmtree(node.root)
    node.run()
    assert node.complete(release)
    assert node.status(release).state is State.SUCCESS


def test_a_view_keeps_its_release_while_lost_data_comes_back(node: Node) -> None:
    release = node.publish(1, {"index": {"a": b"a"}, "table": {"t": b"t"}})
    node.desire(1, release)
    node.run()
    view = node.view(release)
    shutil.rmtree(node.data(release) / "table")
    seen = []
    node.fake_objects.before_piece = lambda source, at: seen.append(
        (view / "..data/places/index/a").read_bytes()
    )
    node.run()

    assert seen == [b"a"]
    assert node.complete(release)


HOSTILE = ["../../../../x", "/etc/x", "a/../../x", "a//b", "./a", "a\nb", "a\0b", "x" * 256, ""]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_manifest_with_a_hostile_path_is_refused(node: Node, path: str, tmp_path: Path) -> None:
    release = node.publish(1, {"index": {"a": b"evil"}}, paths={"a": path})
    node.desire(1, release)
    node.run()

    assert node.status(release).state is State.FAILED
    assert "path" in node.status(release).reason
    assert not node.fake_objects.reads
    assert [p.name for p in tmp_path.iterdir()] == ["root"]


def test_a_path_through_another_file_is_refused(node: Node) -> None:
    release = node.publish(1, {"index": {"a": b"1", "b": b"2"}}, paths={"b": "a/b"})
    node.desire(1, release)
    node.run()

    assert "goes through another file" in node.status(release).reason


def test_a_header_with_another_digest_is_refused(node: Node) -> None:
    release = node.publish(1)
    node.desire(1, release)
    key = keys.release(release.channel, release.version)
    entry, _ = node.kv.get(key)
    assert entry is not None
    node.put(key, entry.value.replace(b'"sequence": 1', b'"sequence": 2'))
    node.run()

    assert node.status(release).state is State.FAILED
    assert "digest" in node.status(release).reason
    assert not node.fake_objects.reads


def test_a_manifest_with_another_digest_is_refused(node: Node) -> None:
    release, other = node.publish(1), node.publish(2)
    node.desire(1, release)
    entry, _ = node.kv.get(keys.manifest(other.channel, other.version))
    assert entry is not None
    node.put(keys.manifest(release.channel, release.version), entry.value)
    node.run()

    assert "digest" in node.status(release).reason
    assert not node.fake_objects.reads


def test_a_missing_header_is_told(node: Node) -> None:
    release = node.publish(1)
    node.desire(1, release)
    node.kv.txn([Delete(keys.release(release.channel, release.version))])
    node.run()

    assert node.status(release).state is State.FAILED
    assert "is not in Consul" in node.status(release).reason


def test_the_same_version_with_other_content_replaces_the_old_data(node: Node) -> None:
    release = node.publish(1, {"index": {"a": b"old"}})
    node.desire(1, release)
    node.run()
    node.publish(1, {"index": {"a": b"new"}})
    node.desire(2, release)
    node.run()

    assert node.content(release) == {"index": {"a": b"new"}}
    assert not node.leftovers()


def test_other_content_waits_while_the_old_one_is_viewed(node: Node) -> None:
    release = node.publish(1, {"index": {"a": b"old"}})
    node.desire(1, release)
    node.run()
    node.view(release)
    node.publish(1, {"index": {"a": b"new"}})
    node.desire(2, release)
    node.run()

    assert node.content(release) == {"index": {"a": b"old"}}
    assert node.status(release).state is State.FAILED
    assert "a view points to it" in node.status(release).reason


def test_a_rollback_never_waits_behind_a_download(node: Node) -> None:
    old, new = node.publish(1), node.publish(2, {"index": {"big": b"x" * 50_000}})
    node.desire(1, old)
    node.run()
    started, go_on = threading.Event(), threading.Event()

    def block(source: Source, at: int) -> None:
        started.set()
        go_on.wait(100)

    node.fake_objects.before_piece = block
    node.desire(2, old, new)
    runner = threading.Thread(target=node.run)
    runner.start()
    assert started.wait(60)
    assert node.status(new).state is State.DOWNLOADING

    node.desire(3, old)
    wait_until(lambda: node.actual().generation == 3)
    runner.join(60)  # the network would keep it for longer
    assert not runner.is_alive()
    assert node.status(old).state is State.SUCCESS
    assert LocalState(node.root).read("desired") == value_of(node, keys.desired(NODE))
    go_on.set()
    node.fake_objects.before_piece = lambda source, at: None
    node.run()
    assert not node.leftovers()


def test_a_download_goes_on_when_the_new_desired_still_wants_it(node: Node) -> None:
    slow, more = node.publish(1, {"index": {"big": b"x" * 50_000}}), node.publish(2)
    started, go_on = threading.Event(), threading.Event()

    def block(source: Source, at: int) -> None:
        if slow.version in source.key:
            started.set()
            assert go_on.wait(100)

    node.fake_objects.before_piece = block
    node.desire(1, slow)
    runner = threading.Thread(target=node.run)
    runner.start()
    assert started.wait(60)
    node.desire(2, slow, more)
    wait_until(lambda: node.complete(more))
    go_on.set()
    runner.join(60)

    assert node.complete(slow)
    assert sum(slow.version in key for key, *_ in node.fake_objects.reads) == 1


def test_a_planted_link_is_not_followed(node: Node, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"mine")
    release = node.publish(1)
    data = node.root / "volumes" / "disk" / "data" / "prod"
    data.parent.mkdir(parents=True)
    data.symlink_to(outside)
    node.desire(1, release)
    node.run()

    assert node.status(release).state is State.FAILED
    assert "link" in node.status(release).reason
    assert [p.name for p in outside.iterdir()] == ["precious"]


def test_a_volume_that_cannot_be_used_is_an_alarm(node: Node) -> None:
    release = node.publish(1)
    node.desire(1, release)
    node.run()
    (node.root / "volumes/disk").rename(node.root / "volumes/gone")
    (node.root / "volumes/disk").write_bytes(b"")

    with pytest.raises(HydraError, match="a link or file stands where a folder belongs"):
        node.run()

    assert "a link or file stands" in node.actual().alarms[0]
    assert node.folder(release).is_dir()


def test_a_header_names_its_own_release(node: Node) -> None:
    release, other = node.publish(1), node.publish(2)
    raw = value_of(node, keys.release(other.channel, other.version))
    node.put(keys.release(release.channel, release.version), raw)
    node.digests[release] = codec.digest(raw)
    node.desire(1, release)
    node.run()

    assert "is that of" in node.status(release).reason
    assert codec.decode(Release, raw, "x").version == other.version
