"""`hydra why`: in one sentence, what an instance waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from msgspec import Struct

from handlers.adapters.snapshot import EVERYTHING, load
from handlers.core.names import Service
from handlers.core.reasons import Reason
from handlers.core.why import why as reason_of
from handlers.core.world import Replica
from hydra_cli.context import Context
from hydra_cli.one_service import find
from hydra_cli.options import command
from hydra_cli.output import Block, Line, Tone

_WELL = (Reason.SETTLED, Reason.PINNED, Reason.BARRED, Reason.PASSED)


class Answer(Struct, frozen=True):
    """One instance and the sentence about it."""

    replica: Replica
    sentence: str

    @property
    def reasons(self) -> list[str]:
        """The names of the reasons in the sentence, in the order of the list."""
        return [reason.name for reason in Reason if reason.told_in(self.sentence)]


class Answers(Struct, frozen=True):
    """All instances that were asked about."""

    service: Service
    answers: Sequence[Answer]

    def data(self) -> Mapping[str, Any]:
        """One object per instance; `reasons` are names from the closed list in consul/README.md."""
        return {
            "service": self.service,
            "instances": [
                {
                    "node": answer.replica.node.name,
                    "id": answer.replica.instance.id,
                    "why": answer.sentence,
                    "reasons": answer.reasons,
                }
                for answer in self.answers
            ],
        }

    def blocks(self) -> Iterator[Block]:
        """A sentence each."""
        for answer in self.answers:
            well = any(reason.told_in(answer.sentence) for reason in _WELL)
            name = f"{answer.replica.instance.id} on {answer.replica.node.name}"
            yield Line(f"{name} {answer.sentence}", Tone.PLAIN if well else Tone.WARN)
        if not self.answers:
            yield Line(f"{self.service} has no instances")


@command("why", examples="""
hydra why prod/search/completion
hydra why prod/search/completion completion-1
hydra why prod/search/completion -o json
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.argument("instance_id", metavar="[ID]", required=False)
@click.pass_obj
def why(context: Context, name: str, instance_id: str | None) -> None:
    """Say in one sentence what an instance waits for; without ID, of every instance of the service."""
    service = context.service(name)
    world = load(context.kv(service.env), *EVERYTHING)
    one = find(world, service, context.now(), instance_id)
    found = [Answer(r, reason_of(world, r, one.targets_of(r))) for r in [*one.live, *one.dead]]
    context.screen.show(Answers(service, found))
