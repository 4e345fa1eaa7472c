"""`consul/README.md`, the description of the KV: its keys, watches and examples are those of the code.

After a wanted change `python -m tests.test_kv_format` writes watches and examples anew; read the difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest

from handlers import resources
from handlers.core import codec, keys, pushed
from handlers.core import model as m
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.reading import Reads
from handlers.core.version import ReleaseId, Version
from hydra_cli.publish_release import list_place
from watches import registry

README = resources.path("consul", "README.md")
CHANNEL, SERVICE = Channel("prod/search/places"), Service("prod/search/completion")
OLD, NEW = Version("2026-01-30T23-59-59"), Version("2026-01-31T23-59-59")
ID = InstanceKey.of(SERVICE, "completion-1")
WHO, WHEN = "ann@build-7", "2026-02-01T00:04:05Z"
SOURCE = f"s3://data/places/{NEW}"

MANIFEST = m.Manifest(
    files={
        "index": (
            m.File("shard-0.kv", 6291456, "8b1a9953c4611296a827abf8c47804d7-2", "crc64nvme:x5nYLdlo34k="),
            m.File("shard-1.kv", 5242880, "c81e728d9d4c2f636f067f89cc14862c-2", "crc64nvme:Tb0dVw2HnIU="),
        ),
        "ranking": (m.File(path="ranking.bin", size=939632, etag="a87ff679a2f3e71d9181a67b7542122c"),),
    }
)
BLAKE3 = "blake3/8388608:rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMmI="
PUSHED = pushed.read(
    pushed.seal(
        m.Pushed(
            files=(
                m.File("index/shard-0.kv", 6291456, "8b1a9953c4611296a827abf8c47804d7-2", BLAKE3),
                m.File("rank.bin", 939632, "a87ff679a2f3e71d9181a67b7542122c", BLAKE3),
            ),
            who=WHO,
            when=WHEN,
        )
    ),
    "example",
)
_LIST = codec.encode(MANIFEST)
RELEASE = m.Release(
    channel=CHANNEL,
    version=NEW,
    sequence=42,
    datasets={
        "index": m.Dataset(
            source=f"{SOURCE}/index/",
            placement=m.DISK,
            files=2,
            bytes=11534336,
            version=NEW,
            integrity="checksum",
        ),
        "ranking": m.Dataset(
            source=f"{SOURCE}/rank.bin",
            placement=m.RAM,
            files=1,
            bytes=939632,
            version=NEW,
            as_name="ranking.bin",
        ),
    },
    manifest=m.ManifestRef(digest=codec.digest(_LIST), bytes=len(_LIST)),
    labels={"commit": "5f3c0de", "format": "5"},
    needs={Channel("prod/search/streets"): OLD},
    note="nightly build",
    who=WHO,
    when=WHEN,
)
HOLD = m.Hold(
    digest=codec.digest(codec.encode(RELEASE)),
    sequence=42,
    why=("target of prod/search/completion",),
    needs={Channel("prod/search/streets"): 17},
)
INSTANCE = m.Instance(
    service=SERVICE,
    id="completion-1",
    incarnation="1187",
    address="10.0.0.7",
    port=8080,
    consul_name="completion",
    reads=Reads("format<=4"),
)

EXAMPLES: Mapping[str, m.Doc] = {
    "meta": m.Meta(environments=("prod", "staging")),
    "channels/<c>/settings": m.ChannelSettings(keep_releases=10, keep_on_nodes=2),
    "channels/<c>/pin": m.Pin(version=OLD, who=WHO, why="the new ranking is being looked at"),
    "channels/<c>/staged": m.Staged(version=NEW, at="2026-02-01T06:00:00Z", who=WHO, why="all nodes have it"),
    "channels/<c>/rejected/<version>": m.Rejected(who=WHO, when=WHEN, why="half of the places are missing"),
    "channels/<c>/unfetchable": m.Unfetchable(
        releases={OLD: f"s3://data/places/{OLD}/index/: shard-0.kv is gone"}, who=WHO, when=WHEN
    ),
    "releases/<c>/<version>": RELEASE,
    "manifests/<c>/<version>": MANIFEST,
    "manifests/<c>/<version>, when it is too large for the KV": m.ManifestElsewhere(
        object=str(list_place(RELEASE, codec.digest(_LIST))), digest=codec.digest(_LIST), bytes=len(_LIST)
    ),
    "manifests/<c>/<version>, and what hydra push leaves beside the data": PUSHED,
    "services/<s>/subscription": m.Subscription(
        channels={"places": CHANNEL},
        reads=Reads("format<=5"),
        reload="http://:/reload",
        confirm="http://:/version#version",
        drain_s=2.0,
    ),
    "services/<s>/control": m.Control(paused=True, who=WHO, when=WHEN, why="busy hours"),
    "verdicts/<s>": m.Verdicts(
        releases={
            ReleaseId.of(CHANNEL, NEW): m.Verdict(
                id="n1.completion-1-42",
                verdict="halted",
                reason="completion-1 did not become healthy within 300 s",
                node="n1",
                instance="completion-1",
                when=WHEN,
            )
        }
    ),
    "slots/<s>": m.Slots(
        out={
            keys.slot_id("n1", ID): m.SlotEntry(
                node="n1", instance="completion-1", incarnation="1187", since=WHEN
            )
        }
    ),
    "rollouts/<s>": m.Rollout(
        ordered=True,
        stage="check",
        releases=(ReleaseId.of(CHANNEL, NEW),),
        instances=("n1.completion-1",),
        checks=(ReleaseId.of(CHANNEL, NEW),),
        reason="those that went first are checked (http://:/stats#error_rate<=0.01): n1.completion-1",
    ),
    "gates/<s>": m.Tally(
        releases=(ReleaseId.of(CHANNEL, NEW),),
        good=7,
        nothing=1,
        last="error_rate is 0.002 (wanted <=0.01)",
    ),
    "proven/<s>": m.Proven(channels={CHANNEL: (OLD, NEW)}, nodes=("n1", "n2")),
    "nodes/<node>/info": m.NodeInfo(
        node="n1",
        consul_node="n1",
        volumes={
            "disk": m.VolumeInfo(cls=m.DISK, reserve_bytes=1073741824),
            "ram": m.VolumeInfo(cls=m.RAM, budget_bytes=4294967296),
        },
        labels={"zone": "a"},
        versions={"hydra": "0.1.0"},
    ),
    "nodes/<node>/instances": m.Instances(instances={ID: INSTANCE}),
    "nodes/<node>/cordon": m.Cordon(who=WHO, when=WHEN, why="its disk will be replaced"),
    "nodes/<node>/forgotten": m.Forgotten(node="n1", who=WHO, when=WHEN, why="given back"),
    "desired/<node>": m.Desired(
        node="n1",
        generation=107,
        releases={ReleaseId.of(CHANNEL, NEW): HOLD},
        ram={f"{CHANNEL}/ranking": NEW},
        services={
            SERVICE: m.ServicePlan(
                aliases={"places": m.AliasPlan(channel=CHANNEL, target=NEW, start=OLD)},
                reads=Reads("format<=5"),
                reload="http://:/reload",
                confirm="http://:/version#version",
                drain_s=2.0,
                others={
                    "completion-1": m.InstancePlan(
                        aliases={
                            "places": m.AliasPlan(
                                channel=CHANNEL,
                                target=OLD,
                                start=OLD,
                                passed=f"{NEW} has format=5, and only format<=4 is read",
                            )
                        }
                    )
                },
            )
        },
    ),
    "actual/<node>": m.Actual(
        node="n1",
        generation=107,
        releases={ReleaseId.of(CHANNEL, NEW): m.ReleaseStatus(state=m.State.SUCCESS, bytes=12473968)},
    ),
    "progress/<node>": m.Progress(
        node="n1",
        downloads={ReleaseId.of(CHANNEL, NEW): m.Download(done=5242880, total=12473968, speed=98000000)},
        free={"disk": 52613349376, "nvme": 52613349376, "ram": 3355443200},
        volumes={
            "disk": m.VolumeUse(
                size=107374182400,
                free=85899345920,
                files=6550000,
                namespaces={"prod/search": 21474836480},
                holds={ReleaseId.of(CHANNEL, OLD): ("index", "ranking")},
            ),
            "nvme": m.VolumeUse(size=107374182400, free=53687091200, files=6550000),
            "ram": m.VolumeUse(size=4294967296, free=3355443200, files=1000000),
        },
        joint={"disk+nvme": m.JointRoom(free=52613349376, files=6550000)},
        when=WHEN,
    ),
    "states/<node>": m.States(
        node="n1",
        sequence=311,
        instances={
            ID: m.InstanceState(
                service=SERVICE,
                id="completion-1",
                incarnation="1187",
                state=m.Ready.DRAINING,
                step=m.Step.DRAIN,
                reason="moves to 2026-01-31T23-59-59; waits for its requests to end",
                releases={"places": OLD},
                channels={"places": CHANNEL},
                moving={"places": NEW},
                target={"places": NEW},
                served=True,
                since=WHEN,
            )
        },
    ),
    "alarms": m.Alarms(
        alarms=(m.Alarm(object=f"channel/{CHANNEL}", text="pin: no release 2026-02-30T00-00-00"),),
        generation=107,
    ),
    "audit/<object>/<time>-<id>": m.Audit(
        object=f"channel/{CHANNEL}", action="pinned", who=WHO, when=WHEN, before="", after=OLD, why="rollback"
    ),
    "served/<s>/now": m.Served(
        since="2026-02-01T00:00:01Z",
        start={f"places {OLD}": ("n1/completion-1", "n2/completion-2")},
        changes=(m.ServedChange(when=WHEN, releases=f"places {NEW}", instances=("n1/completion-1",)),),
    ),
    "recorded/channels": m.Orders(index=1311, seen={f"channels/{CHANNEL}/head": f"1311 {NEW}"}),
    "recorded/told": m.Told(
        heads={CHANNEL: NEW},
        common={f"{SERVICE} places": OLD},
        waiting={f"n1/{ID}": WHEN},
        pending=(
            m.Event(
                kind="published",
                object=f"channel/{CHANNEL}",
                text=f"{CHANNEL}: {NEW} is published by {WHO}, 12473968 bytes",
                when=WHEN,
            ),
        ),
    ),
}
# Registrations look like instances; heads are bare; what a lock or `alive` holds is nobody's business.
WITHOUT_EXAMPLE = {
    "channels/<c>/head",
    "services/<s>/pin/<alias>",
    "slots/<s>/<node>.<id>",
    "nodes/<node>/alive",
    "nodes/<node>/registrations",
    "locks/<role>",
    "served/<s>/<time>",
    "recorded/services",
    "recorded/nodes",
}


def described() -> dict[str, str]:
    """The examples in the README by their headings."""
    return dict(
        re.findall(r"^### `?([^`\n]+?)`?\n\n```json\n(.*?)```$", README.read_text(), re.MULTILINE | re.DOTALL)
    )


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading of the README."""
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def subclasses(kind: type[m.Doc]) -> Iterator[type[m.Doc]]:
    for sub in kind.__subclasses__():
        if sub.__module__.startswith("handlers."):
            yield sub
            yield from subclasses(sub)


def watch_rows() -> list[list[str]]:
    place = {"node": "every node", "cluster": "planner"}
    return [
        [
            f"{w.type} `{w.path('node').removeprefix(keys.ROOT).replace('/node', '/<node>')}`",
            w.handler,
            place[w.scope],
        ]
        for w in registry.WATCHES
    ]


def test_examples_are_what_hydra_writes() -> None:
    assert described() == {title: codec.encode(doc).decode() for title, doc in EXAMPLES.items()}


@pytest.mark.parametrize("title", EXAMPLES)
def test_example_is_read_back_as_it_was(title: str) -> None:
    raw = described()[title].encode()

    assert codec.decode(type(EXAMPLES[title]), raw, title) == EXAMPLES[title]


def test_every_kind_of_document_has_an_example() -> None:
    assert set(subclasses(m.Doc)) == {type(doc) for doc in EXAMPLES.values()}


def test_table_of_keys_names_every_key_once() -> None:
    named = [key for row in rows("Keys and their only writers") for key in re.findall(r"`([^`]+)`", row[0])]
    exemplified = {title.partition(",")[0] for title in EXAMPLES}

    assert len(named) == len(set(named))
    assert set(named) == exemplified | WITHOUT_EXAMPLE


def test_table_of_keys_has_every_folder_of_the_code() -> None:
    folders = {
        value.removeprefix(keys.ROOT).strip("/")
        for name, value in vars(keys).items()
        if name.isupper() and name != "ROOT" and isinstance(value, str)
    }
    named = {re.findall(r"`([^`/]+)", row[0])[0] for row in rows("Keys and their only writers")}

    assert named == folders


def test_table_of_watches_is_the_registry() -> None:
    assert rows("Who watches what") == watch_rows()


def test_digests_of_the_examples_fit_together() -> None:
    texts = described()
    release = codec.decode(m.Release, texts["releases/<c>/<version>"].encode(), "release")
    desired = codec.decode(m.Desired, texts["desired/<node>"].encode(), "desired")

    assert release.manifest.digest == codec.digest(texts["manifests/<c>/<version>"].encode())
    held = desired.releases[ReleaseId.of(release.channel, release.version)]
    assert held.digest == codec.digest(texts["releases/<c>/<version>"].encode())


def rewrite() -> None:
    """Put watches and examples into the README."""
    text = README.read_text()
    table = "".join(f"| {' | '.join(row)} |\n" for row in watch_rows())
    text = re.sub(
        r"(\| watch \| wakes \| where \|\n\|---\|---\|---\|\n).*?\n\n", rf"\1{table}\n", text, flags=re.DOTALL
    )
    head, _, _ = text.partition("fit together.\n")
    blocks = [
        f"### {_quoted(title)}\n\n```json\n{codec.encode(doc).decode()}```\n"
        for title, doc in EXAMPLES.items()
    ]
    README.write_text(f"{head}fit together.\n\n" + "\n".join(blocks))


def _quoted(title: str) -> str:
    return f"`{title}`" if "," not in title else title


if __name__ == "__main__":
    rewrite()
