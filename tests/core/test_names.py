"""Names are hostile until they are one of these types."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.errors import Usage
from handlers.core.names import (
    Channel,
    InstanceKey,
    Service,
    check_alias,
    check_path,
    check_word,
    segment,
)

WORDS = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", fullmatch=True)
ANY_TEXT = st.text(st.characters(), max_size=80)  # half surrogate pairs included

GOOD = ["a", "0", "places", "a.b", "a_b-c", "x" * 63, "1.2.3"]
BAD = [
    "",
    "A",
    "Places",
    "x" * 64,
    ".",
    "..",
    "a..b",
    ".a",
    "a.",
    "-a",
    "a-",
    "a b",
    "a/b",
    "a\n",
    "\na",
    "a\x00",
    "é",
    "a@b",
    "a:b",
    "%2e",
    "a\u2028b",
]


@pytest.mark.parametrize("text", GOOD)
def test_legal_word_is_itself(text: str) -> None:
    assert check_word(text, "dataset") == segment(text) == text


@pytest.mark.parametrize("text", BAD)
def test_illegal_word_is_refused_by_its_role(text: str) -> None:
    with pytest.raises(Usage, match=re.escape(f"dataset {text!r} is not a legal name")):
        check_word(text, "dataset")


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("kind", [Channel, Service])
def test_no_part_of_a_name_is_illegal(kind: type[Channel | Service], text: str) -> None:
    for name in (f"{text}/b/c", f"a/{text}/c", f"a/b/{text}"):
        with pytest.raises(Usage):
            kind.parse(name)


@pytest.mark.parametrize("text", ["a", "a/b", "a/b/c/d", "/a/b/c", "a/b/c/", "a//c"])
def test_name_has_three_parts(text: str) -> None:
    with pytest.raises(Usage):
        Channel.parse(text)


def test_parts_of_a_name() -> None:
    name = Channel.parse("prod/search/places")

    assert (name.env, name.namespace, name.name) == ("prod", "search", "places")
    assert isinstance(name, Channel)
    assert name == "prod/search/places"


@pytest.mark.parametrize("text", ["state", "readiness.json", "", "..data", "a/b"])
def test_alias_cannot_be_called_like_a_file_of_the_view(text: str) -> None:
    with pytest.raises(Usage, match="alias"):
        check_alias(text)


def test_instance_key_takes_any_foreign_id() -> None:
    service = Service.parse("prod/search/complete")
    key = InstanceKey.of(service, "_nomad-task-0A/b:8080")

    assert InstanceKey.parse(key) == key
    assert (key.service, key.segment) == (service, segment("_nomad-task-0A/b:8080"))


@given(ANY_TEXT)
def test_segment_is_always_a_legal_word(text: str) -> None:
    assert check_word(segment(text), "node") == segment(text)


@given(ANY_TEXT)
def test_segment_of_a_segment_is_itself(text: str) -> None:
    assert segment(segment(text)) == segment(text)


@given(ANY_TEXT, ANY_TEXT)
def test_names_that_do_not_fit_share_no_segment(one: str, other: str) -> None:
    def fits(text: str) -> bool:
        return segment(text) == text

    if one != other and not fits(one) and not fits(other):
        assert segment(one) != segment(other)


@given(WORDS, WORDS, WORDS, ANY_TEXT)
def test_instance_key_round_trip(env: str, namespace: str, name: str, foreign: str) -> None:
    service = Service.parse(f"{env}/{namespace}/{name}")
    key = InstanceKey.of(service, foreign)

    assert InstanceKey.parse(str(key)) == key
    assert key.service == service
    assert key.count("/") == 3


@pytest.mark.parametrize(
    "text", ["a", "a/b.bin", "ä/ö", "a b", ".hidden", "a/...", "x" * 255, "a/" * 500 + "a"]
)
def test_path_below_a_dataset(text: str) -> None:
    assert check_path(text, "file") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "a/./b",
        "../a",
        "a/../b",
        "a/..",
        "a\nb",
        "a\x00",
        "a\x7f",
        "a\x9f",
        "x" * 256,
        "a/" * 512 + "a",
    ],
)
def test_path_that_leads_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="file"):
        check_path(text, "file")
