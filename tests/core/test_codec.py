"""JSON and documents: nothing is lost, nothing wrong gets in, and every refusal says where."""

from __future__ import annotations

import json
import time
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

from handlers.core import codec, model
from handlers.core.canonical import Shared
from handlers.core.errors import Malformed
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.reading import EVERYTHING, Reads
from handlers.core.version import ReleaseId, Version
from tests.core.worlds import COMPLETE, PLACES, Cluster, rid, v

DOCUMENTS = sorted(
    (
        cls
        for cls in vars(model).values()
        if isinstance(cls, type) and issubclass(cls, model.Doc) and cls is not model.Doc
    ),
    key=lambda cls: cls.__name__,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
WORDS = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
SCOPED = st.tuples(WORDS, WORDS, WORDS).map("/".join)
VERSIONS = st.integers(1, 28).map(v)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may have."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        # mappings by plain text hold names, of which some fields allow only legal ones
        names = WORDS if arguments[0] is str else values(arguments[0])
        return st.dictionaries(names, values(arguments[1]), max_size=3)
    if {int, str} <= set(arguments):  # an amount; the only other unions are with None
        amounts = st.integers(0, 2**62) | st.integers(0, 100).map(lambda share: f"{share}%")
        return amounts | st.none() if type(None) in arguments else amounts
    if origin is not None:
        return st.none() | values(arguments[0])
    if issubclass(kind, Struct):
        return parts(kind)
    if issubclass(kind, StrEnum):
        return st.sampled_from(list(kind))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(0, 2**62),
        float: st.floats(0, 1e15),
        str: TEXT,
        Version: VERSIONS,
        Channel: SCOPED.map(Channel),
        Service: SCOPED.map(Service),
        ReleaseId: st.builds(ReleaseId.of, SCOPED.map(Channel), VERSIONS),
        InstanceKey: st.builds(InstanceKey.of, SCOPED.map(Service), TEXT),
        Reads: st.sampled_from([EVERYTHING, Reads("format<=4"), Reads("places:a=b,c>1.2 d!=e")]),
    }
    return simple[kind]


def parts(cls: Any) -> st.SearchStrategy[Any]:
    """Any document or part of this class, with some fields that nobody knows."""
    fields = {f.name: values(f.type) for f in structs.fields(cls) if f.name != "extra"}
    if cls is model.Desired:
        ram = st.dictionaries(st.tuples(SCOPED, WORDS).map("/".join), VERSIONS, max_size=2)
        fields["ram"] = ram
    if cls is not model.File:  # a row of a list, which has no room for fields that nobody knows
        names = TEXT.filter(lambda name: name not in {*fields, "about", "format"})
        fields["extra"] = st.dictionaries(names, JSON, max_size=2)
    return st.builds(cls, **fields)


@pytest.mark.parametrize("cls", DOCUMENTS, ids=lambda cls: cls.__name__)
def test_every_document_survives_the_way_to_kv_and_back(cls: type[model.Doc]) -> None:
    @settings(max_examples=40)
    @given(parts(cls))
    def check(document: model.Doc) -> None:
        raw = codec.encode(document)

        assert codec.decode(cls, raw, "k") == document
        assert codec.encode(codec.decode(cls, raw, "k")) == raw
        assert codec.encode(document, {}) == raw
        assert json.loads(raw)["format"] == model.FORMAT
        assert next(iter(json.loads(raw))) == "about"

    check()


@settings(max_examples=300)
@given(
    st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from(DOCUMENTS)
)
def test_any_bytes_are_read_or_refused_with_their_place(raw: bytes, cls: type[model.Doc]) -> None:
    reads: list[Callable[[], model.Doc]] = [
        lambda: codec.decode(cls, raw, "the/key"),
        lambda: codec.decode_pin(raw, "the/key"),
    ]
    for read in reads:
        try:
            document = read()
        except Malformed as e:
            assert str(e).startswith("the/key: ")  # noqa: PT017 - both outcomes are fine
        else:
            codec.encode(document)


DESIRED = model.Desired(
    node="n1",
    generation=3,
    releases={rid(1): model.Hold(digest="sha256:00", sequence=1)},
    services={COMPLETE: model.ServicePlan(aliases={"places": model.AliasPlan(channel=PLACES, target=v(1))})},
)


def spoiled(path: str, value: Any) -> bytes:
    """DESIRED as JSON with one value replaced; `path` has `>` between its parts."""
    whole = json.loads(codec.encode(DESIRED))
    *way, last = path.split(">")
    inner = whole
    for step in way:
        inner = inner[step]
    inner[last] = value
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("node", 5, "k: node: must be text"),
        ("node", None, "k: node: must be text"),
        ("generation", -1, "k: generation: must be a whole number, 0 or more"),
        ("generation", 1.5, "k: generation: must be a whole number, 0 or more"),
        ("generation", True, "k: generation: must be a whole number, 0 or more"),
        ("generation", 2**63, "k: generation: must be a whole number, 0 or more"),
        ("generation", "3", "k: generation: must be a whole number, 0 or more"),
        ("cordoned", 1, "k: cordoned: must be true or false"),
        ("releases", [], "k: releases: must be an object"),
        ("releases>oops", {}, "k: releases.oops: release 'oops' must be"),
        (f"releases>{rid(1)}", {"digest": "x"}, f"k: releases.{rid(1)}: sequence is missing"),
        (f"releases>{rid(1)}>why", "x", f"k: releases.{rid(1)}.why: must be a list"),
        (f"releases>{rid(1)}>why", ["a", 1], f"k: releases.{rid(1)}.why[1]: must be text"),
        ("ram", {"places": v(1)}, "k: ram.places: channel '' must be"),
        ("ram", {"a/b/c/..": v(1)}, "k: ram.a/b/c/..: dataset '..' is not a legal name"),
        ("services>prod/x", {}, "k: services.prod/x: service 'prod/x' must be"),
        (f"services>{COMPLETE}>aliases>../x", {}, "is not a legal name"),
        (f"services>{COMPLETE}>aliases>state", {}, "alias 'state' is taken"),
        (f"services>{COMPLETE}>aliases>places>target", "now", ".aliases.places.target: version 'now' is not"),
        (f"services>{COMPLETE}>drain_s", 10**400, ".drain_s: must be a number, 0 or more"),
        (f"services>{COMPLETE}>deadline_s", -0.5, ".deadline_s: must be a number, 0 or more"),
        ("format", 2, "k: format 2 is not 1"),
        ("format", None, "k: format None is not 1"),
    ],
)
def test_refusal_names_key_and_field(path: str, value: Any, said: str) -> None:
    with pytest.raises(Malformed) as caught:
        codec.decode(model.Desired, spoiled(path, value), "k")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"format": 1} x',
        b"\xff",
        b'\xef\xbb\xbf{"format": 1}',
        b"[" * 100_000,
        b'{"format": 1, "x": ' + b'{"y":' * 500 + b"1" + b"}" * 501,
        b'{"format": 1, "keep_releases": 1e999}',
        b'{"format": 1, "x": NaN}',
        b'{"format": 1, "x": -Infinity}',
        b'{"format": 1, "x": "\\ud800"}',
        b'{"format": 1, "\\udfff": 1}',
        b'{"format": 1, "x": "\xed\xa0\x80"}',
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_text_that_could_not_be_written_again_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed, match=r"^k: "):
        codec.decode(model.ChannelSettings, raw, "k")


def test_unknown_fields_stay_where_they_are() -> None:
    raw = (
        b'{"format": 1, "releases": {"prod/search/places@2026-01-01T00-00-00": {"id": "i", "verdict": "bad",'
    )
    raw += (
        b' "reason": "r", "node": "n", "instance": "x", "colour": ["red", {"shade": null}]}}, "weight": 1.5}'
    )

    document = codec.decode(model.Verdicts, raw, "k")

    assert document.extra == {"weight": 1.5}
    assert json.loads(codec.encode(document))["releases"][rid(1)]["colour"] == ["red", {"shade": None}]


def test_text_for_people_is_not_kept_as_a_field() -> None:
    document = codec.decode(model.Meta, b'{"about": "lies", "format": 1, "environments": ["prod"]}', "k")
    assert document.extra == {}
    assert json.loads(codec.encode(document))["about"] == "Hydra's KV, format 1, serving prod"


def test_document_reads_well() -> None:
    manifest = model.Manifest(
        files={"index": (model.File(path="ä/0.bin", size=3, etag="e"), model.File(path="1", size=0, etag=""))}
    )
    assert codec.encode(manifest).decode() == (
        "{\n"
        '  "about": "The 2 files of this release",\n'
        '  "files": {\n'
        '    "index": [\n'
        '      ["ä/0.bin", 3, "e"],\n'
        '      ["1", 0, ""]\n'
        "    ]\n"
        "  },\n"
        '  "format": 1\n'
        "}\n"
    )


@pytest.mark.parametrize(
    "file", ['["a", 1]', '["a", "1", "e"]', '["a", true, "e"]', '["a", -1, "e"]', '{"path": "a"}']
)
def test_file_of_a_manifest_is_path_size_and_etag(file: str) -> None:
    raw = f'{{"format": 1, "files": {{"index": [["a", 1, "e"], {file}]}}}}'.encode()
    with pytest.raises(Malformed, match=r"^k: files\.index\[1\]: a file must be \[path, size, etag\]"):
        codec.decode(model.Manifest, raw, "k")


class TestPins:
    @pytest.mark.parametrize(
        "raw",
        [
            b"2026-01-01T00-00-00",
            b"2026-01-01T00-00-00\n",
            b'{"version": "2026-01-01T00-00-00"}',
            b'\n{"format": 1, "version": "2026-01-01T00-00-00"}',
        ],
    )
    def test_pin_by_hand(self, raw: bytes) -> None:
        assert codec.decode_pin(raw, "k") == model.Pin(version=v(1))

    def test_pin_with_a_reason(self) -> None:
        pin = model.Pin(version=v(1), who="me", why="slow", until="2026-06-01T00:00:00Z")
        assert codec.decode_pin(codec.encode(pin), "k") == pin

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"latest",
            b"{}",
            b'{"version": "x"}',
            b'{"format": 2, "version": "2026-01-01T00-00-00"}',
            b"[1]",
            b'"x"',
        ],
    )
    def test_what_is_no_pin_is_refused(self, raw: bytes) -> None:
        with pytest.raises(Malformed, match=r"^k: "):
            codec.decode_pin(raw, "k")


def test_parts_in_common_are_written_once_and_alike() -> None:
    plans = DESIRED.services
    documents = [structs.replace(DESIRED, node=f"n{number}") for number in range(3)]
    shared: Shared = {}

    assert [codec.encode(d, shared) for d in documents] == [codec.encode(d) for d in documents]

    assert (id(plans[COMPLETE]), 2) in shared


def test_digest_is_of_the_bytes() -> None:
    assert codec.digest(b"x") == "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def test_a_thousand_desired_documents_take_less_than_half_a_second() -> None:
    """About 0.1 s of CPU on an idle machine; what else runs there makes some of three tries slower."""
    cluster = Cluster()
    for number in range(1, 4):
        cluster.publish(number)
    cluster.subscribe()
    cluster.node("n1", COMPLETE)
    cluster.run()
    raw = codec.encode(cluster.desired("n1"))

    took_s = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(1000):
            codec.encode(codec.decode(model.Desired, raw, "k"))
        took_s.append(time.process_time() - began)
    assert min(took_s) < 0.5
