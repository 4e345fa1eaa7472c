"""Why an instance is where it is: the closed list of sentences.

Those above the gap are what `reason` in `states/<node>` can hold, written by the node; those below are what
`core.why` sees from elsewhere. consul/README.md lists them, and tests provoke each on a real cluster.
"""

from __future__ import annotations

import re
from enum import StrEnum

_FACT = re.compile(r"\{[^}]*}")


class Reason(StrEnum):
    """A sentence with places for its facts."""

    NO_PLAN = "waits for a plan of its service to reach its node: is it subscribed?"
    LEAVING = "stays as it is: its pod is being deleted"
    NO_RELEASE = "waits for a first release: channel {channel} has none for it yet"
    NONE_FITS = "waits for a release that it may run: {held}"
    HELD = "stays as it is, its move is held: {held}"
    HALTED = "stays as it is, since {release} is {verdict}: {why}"
    INCOMPLETE = "waits until {release} is complete on this node"
    FILLING = "waits until {release} is in RAM"
    NEEDS = "moves to {release} only together with {other}: one needs the other"
    AWAITS_RAM = "stays out until its release is in RAM; others still use the old copy, or it is being filled"
    TOO_LARGE = "stays as it is: {numbers}, and nothing can make room"
    RAM_SHARED = "waits: {numbers}; the old copy is used by {who}, which moves off by itself"
    TOGETHER = (
        "waits: {numbers}; {count} instances here must be out at once, {out} are out for a reload and "
        "{sick} not in service, of {budget} allowed"
    )
    FROZEN = "stays as it is: instances of this service keep what they started with"
    PAUSED = "stays as it is: rollouts of this service are paused"
    TURN = "waits for its turn: {why}"
    TURN_DATA = "all nodes have the data first; not yet {nodes}"
    TURN_CANARY = "a few go first: {who}"
    TURN_CHECK = "those that went first are checked ({check}): {who}"
    TURN_PAUSE = "a pause until {until}, then {wave}"
    TURN_WAVE = "nodes with {label} {wave} go first"
    TURN_UNKNOWN = "whose turn it is cannot be read"
    POLICY = "cannot go on: {error}"
    BUDGET = "waits: {out} out for a reload and {sick} not in service, of {budget} allowed: {who}"
    UNSEEN = "waits: the health of {who} cannot be seen"
    FIRST = "starts with the releases of its view"
    FIRST_FAILED = "has its view; its first reload failed: {error}"
    DRAINING = "waits until it is out of service and its drain time is over"
    NOT_SHOWN = "waits until its state file says {word}"
    CANNOT_SEE = "waits: its own health cannot be seen, and its deadline waits as well"
    SUPERSEDED = "goes on to the newest target"
    RELOADING = "loads what its view points to"
    REPLACING = "its pod is being deleted, so that another one with the new release takes its place"
    CONFIRMING = "waits for its confirmation: {seen}"
    WARMING = "warms up: {how}"
    NOT_WARM = "its warm-up failed: {error}"
    RETURNING = "waits until it is in service again"
    WENT_BACK = "went back: {error}"
    GAVE_UP = "is on its old release but did not come back into service: {error}"
    NOT_DRAINED = "it was still in service {seconds:.0f} s after it was told to drain"
    NOT_CONFIRMED = "not confirmed within {seconds:.0f} s: {seen}"
    NOT_BACK = "not in service {seconds:.0f} s after its reload"

    NO_META = "stays as it is: Hydra's KV has no meta, so it was wiped or is not set up, and everybody holds"
    NODE_DEAD = "waits for its node: {node} is dead, or cannot reach Consul"
    HOLDS_OFF = "stays as it is: its node takes over nothing new: {why}"
    NOT_TAKEN_UP = "waits until its node begins with it: nothing was heard of it from there yet"
    NOT_PLANNED = "waits for the planner: {release} is not planned for its node yet"
    NOT_BEGUN = "waits until its node begins the move to {release}"
    LOADING = "waits until {release} is complete on its node: {done} of {total} bytes are here"
    NOT_LOADED = "waits until {release} is complete on its node: the download failed: {why}"
    CORDONED = "stays as it is: its node is cordoned by {who}: {why}"
    PINNED = "waits for nothing: it runs {releases}, which is pinned by {who}"
    BARRED = "waits for nothing: it runs {releases}, since {barred} is rejected"
    PASSED = "waits for nothing: it runs {releases}, and passes over {passed}"
    SETTLED = "waits for nothing: it runs {releases}, as it should"

    def say(self, **facts: object) -> str:
        """The sentence with its facts filled in."""
        return self.value.format(**facts)

    def told_in(self, text: str) -> bool:
        """Whether `text` has this sentence, with whatever facts."""
        return bool(self._pattern().search(text))

    def _pattern(self) -> re.Pattern[str]:
        return re.compile(r"(?s:.*?)".join(re.escape(part) for part in _FACT.split(self.value)))
