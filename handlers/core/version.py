"""Versions `YYYY-MM-DDThh-mm-ss` (UTC), the placeholder in source paths, and the newest common version."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Self

from handlers.core.errors import Usage
from handlers.core.names import Channel

PLACEHOLDER = "{VERSION_PLACEHOLDER}"
_SHAPE = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}", re.ASCII)
_FORMAT = "%Y-%m-%dT%H-%M-%S"


class Version(str):
    """A release's version; text order is time order. White space around it is stripped by `parse`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check `text`; raises `Usage` when it is not a real date and time in the one format."""
        bare = text.strip()
        if _SHAPE.fullmatch(bare):
            try:
                datetime.strptime(bare, _FORMAT).replace(tzinfo=UTC)
            except ValueError:
                pass  # falls through to the one error below
            else:
                return cls(bare)
        raise Usage(f"version {text!r} is not a date and time like 2026-01-31T23-59-59 (UTC)")

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """The version of a moment, which must be aware of its time zone."""
        # not strftime, which leaves out the zeros of early years
        return cls(moment.astimezone(UTC).isoformat(timespec="seconds")[:19].replace(":", "-"))

    @property
    def moment(self) -> datetime:
        """The moment in UTC that the version names."""
        return datetime.strptime(self, _FORMAT).replace(tzinfo=UTC)


class ReleaseId(str):
    """One release in documents: `<channel>@<version>`."""

    __slots__ = ()

    @classmethod
    def of(cls, channel: Channel, version: Version) -> Self:
        """The id of `version` of `channel`."""
        return cls(f"{channel}@{version}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check `text`; raises `Usage`."""
        channel, at, version = text.partition("@")
        if not at:
            raise Usage(f"release {text!r} must be ENV/NAMESPACE/NAME@VERSION")
        return cls.of(Channel.parse(channel), Version.parse(version))

    @property
    def channel(self) -> Channel:
        """The channel of the release."""
        return Channel(self.partition("@")[0])

    @property
    def version(self) -> Version:
        """The version of the release."""
        return Version(self.partition("@")[2])


def newest_common(found: Mapping[str, Iterable[Version]], now: datetime) -> dict[str, Version | None]:
    """For each dataset the newest of its complete versions that is not in the future of `now`."""
    limit = Version.of(now)
    return {name: max((v for v in versions if v <= limit), default=None) for name, versions in found.items()}
