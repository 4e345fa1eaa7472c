"""Why an instance is where it is: the closed list of sentences that `reason` in `states/<node>` can hold."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A sentence with places for its facts."""

    NO_PLAN = "no plan for this service has reached this node: is it subscribed?"
    LEAVING = "stays as it is: its pod is being deleted"
    NO_RELEASE = "channel {channel} has no release for it yet"
    HELD = "stays as it is: {held}"
    HALTED = "stays as it is: {release} is {verdict}: {why}"
    INCOMPLETE = "waits until {release} is complete on this node"
    FILLING = "waits until {release} is in RAM"
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
    POLICY = "stays as it is: {error}"
    BUDGET = "waits: {out} out for a reload and {sick} not in service, of {budget} allowed: {who}"
    UNSEEN = "waits: the health of {who} cannot be seen"
    FIRST = "starts with the releases of its view"
    FIRST_FAILED = "has its view; its first reload failed: {error}"
    DRAINING = "waits until it is out of service and its drain time is over"
    NOT_SHOWN = "waits until its state file says {word}"
    CANNOT_SEE = "its health cannot be seen; the deadline waits"
    SUPERSEDED = "goes on to the newest target"
    RELOADING = "loads what its view points to"
    CONFIRMING = "waits for its confirmation: {seen}"
    RETURNING = "waits until it is in service again"
    WENT_BACK = "went back: {error}"
    GAVE_UP = "is on its old release but did not come back into service: {error}"
    NOT_DRAINED = "it was still in service {seconds:.0f} s after it was told to drain"
    NOT_CONFIRMED = "not confirmed within {seconds:.0f} s: {seen}"
    NOT_BACK = "not in service {seconds:.0f} s after its reload"

    def say(self, **facts: object) -> str:
        """The sentence with its facts filled in."""
        return self.value.format(**facts)
