"""The list of reasons: unambiguous, documented, and each provoked by a test on a real cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handlers.core.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
# it takes a kubelet to delete a pod: tests/kube/test_reloads.py
ON_KUBERNETES = {Reason.LEAVING, Reason.REPLACING}
FACTS = dict.fromkeys(
    [name for reason in Reason for name in re.findall(r"{(\w+)[^}]*}", reason.value)], "fact"
) | {"seconds": 3.0}  # fmt: skip


@pytest.mark.parametrize("reason", Reason)
def test_sentence_belongs_to_one_reason_only(reason: Reason) -> None:
    assert [other for other in Reason if other.told_in(reason.say(**FACTS))] == [reason]


def test_every_reason_is_documented() -> None:
    text = (ROOT / "consul" / "README.md").read_text()

    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", text, re.MULTILINE))
    without_formats = {reason.name: re.sub(r"({\w+):[^}]*}", r"\1}", reason.value) for reason in Reason}
    assert without_formats.items() <= rows.items()


def test_every_reason_is_provoked_on_a_real_cluster() -> None:
    def missing(folder: str) -> set[Reason]:
        tests = "".join(path.read_text() for path in (ROOT / "tests" / folder).glob("test_*.py"))
        return {reason for reason in Reason if not re.search(rf"Reason\.{reason.name}\b", tests)}

    assert missing("e2e") == ON_KUBERNETES
    assert missing("kube") & ON_KUBERNETES == set()
