"""What every command works with: where it writes, whose Consul and S3, and what the names on its line mean.

Connections are made when first needed: `hydra publish --help` must not fail for want of a Consul.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from handlers.adapters.ports import Consul, Objects, Uploads
from handlers.core.errors import Usage
from handlers.core.names import Channel, Scoped, Service, check_word
from handlers.core.source_table import SourceTable
from hydra_cli.config import Config, load
from hydra_cli.output import Screen

if TYPE_CHECKING:
    from handlers.adapters.stores import Stores

KINDS = ("channel", "service", "node")


class Node(str):
    """A node's name, as it really is (a foreign name: anything but empty)."""

    __slots__ = ()


Named = Channel | Service | Node


class Context:
    """One run of one command. What tests do not hand in is what the environment says."""

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        consul: Callable[[Mapping[str, str]], Consul] | None = None,
        objects: Callable[[Mapping[str, str]], Objects] | None = None,
        uploads: Callable[[Mapping[str, str]], Uploads] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.environ: Mapping[str, str] = os.environ if environ is None else environ
        self.screen = Screen()
        self.given_env = ""
        self.given_namespace = ""
        self.now = now
        self._make_consul = consul or _consul
        self._make_objects = objects
        self._make_uploads = uploads
        self._made: dict[str, Consul] = {}

    @cached_property
    def config(self) -> Config:
        """The person's configuration file."""
        return load(self.environ)

    @property
    def env(self) -> str:
        """`--env`, else HYDRA_ENV, else the configuration's; empty when nobody says."""
        return self.given_env or self.environ.get("HYDRA_ENV", "") or self.config.environment

    @property
    def namespace(self) -> str:
        """`-n`, else HYDRA_NAMESPACE, else the configuration's; empty when nobody says."""
        own = self.config.environments.get(self.env, {}).get("namespace", "")
        return self.given_namespace or self.environ.get("HYDRA_NAMESPACE", "") or own or self.config.namespace

    @property
    def who(self) -> str:
        """Who is acting, for audit entries: HYDRA_WHO (pipelines), else user@machine."""
        if named := self.environ.get("HYDRA_WHO", ""):
            return named
        import getpass
        import socket

        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a container's user without a name
            user = f"uid {os.getuid()}"
        return f"{user}@{socket.gethostname()}"

    def stamp(self) -> str:
        """This moment for people, in documents."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def kv(self, env: str = "") -> Consul:
        """The Consul of `env` (default: `self.env`)."""
        env = env or self.env
        if env not in self._made:
            self._made[env] = self._make_consul(self.variables(env))
        return self._made[env]

    def objects(self, env: str = "") -> Objects:
        """The object stores of `env`."""
        env = env or self.env
        return self._make_objects(self.variables(env)) if self._make_objects else self._stores(env)

    def uploads(self, env: str = "") -> Uploads:
        """The publisher's side of the object stores of `env`."""
        env = env or self.env
        if self._make_uploads:
            return self._make_uploads(self.variables(env))
        from handlers.adapters.stores import StoresUploads

        return StoresUploads(self._stores(env))

    def _stores(self, env: str) -> Stores:
        from handlers.adapters.stores import Stores

        return Stores(self.sources(env), self.variables(env))

    def sources(self, env: str) -> SourceTable:
        """What the configuration file says of sources in `env`."""
        return self.config.sources.get(env, SourceTable())

    def variables(self, env: str) -> dict[str, str]:
        """The process environment, completed by the configuration file for `env`."""
        return self.config.variables(env, self.environ)

    def channel(self, text: str) -> Channel:
        """The channel that `text` names: `channel/E/NS/NAME`, E/NS/NAME, NS/NAME or NAME."""
        return Channel.parse(self._full(text, "channel"))

    def service(self, text: str) -> Service:
        """The service that `text` names, in the same forms."""
        return Service.parse(self._full(text, "service"))

    def named(self, text: str, exists: Callable[[Named], bool]) -> list[Named]:
        """The objects that `text` names: one for `channel/…`, `service/…`, `node/…`, else those that exist.

        A bare E/NS/NAME may be a channel, a service or both; a bare word a node as well.
        """
        kind, _, rest = text.partition("/")
        if kind == "node":
            if not rest:
                raise Usage("node/NAME: the name is missing")
            return [Node(rest)]
        if kind in KINDS and rest:
            return [self.channel(text) if kind == "channel" else self.service(text)]
        candidates: list[Named] = [] if "/" in text else [Node(text)]
        if "/" in text or (self.env and self.namespace):
            candidates += [self.channel(text), self.service(text)]
        found = [candidate for candidate in candidates if exists(candidate)]
        if not found:
            raise Usage(
                f"nothing is called {text!r}; name it channel/E/NS/NAME, service/E/NS/NAME or node/NAME"
            )
        return found

    def _full(self, text: str, kind: str) -> str:
        bare = text.removeprefix(f"{kind}/")
        parts = bare.split("/")
        if bare == text and len(parts) > 3 and parts[0] in KINDS:
            raise Usage(f"{text!r} does not name a {kind}")
        missing = 3 - len(parts)
        defaults = (self.env, self.namespace)[:missing] if missing > 0 else ()
        if any(not value for value in defaults):
            raise Usage(
                f"{kind} {bare!r} must be ENV/NAMESPACE/NAME "
                "(HYDRA_ENV and HYDRA_NAMESPACE stand for what is left out)"
            )
        return "/".join((*defaults, *parts))


def object_name(named: Named) -> str:
    """`channel/…`, `service/…` or `node/…`: how audit entries and alarms call an object."""
    return f"{named.kind}/{named}" if isinstance(named, Scoped) else f"node/{named}"


def channel_of(env: str, namespace: str, release: str) -> Channel:
    """The channel `<env>/<namespace>/<release>`; a missing part is named in the error."""
    wanted = (
        (env, "environment", "--env or HYDRA_ENV"),
        (namespace, "namespace", "-n or HYDRA_NAMESPACE"),
        (release, "release", "--release"),
    )
    for value, what, option in wanted:
        if not value:
            raise Usage(
                f"which channel? the {what} is missing: give {option}, or --channel ENV/NAMESPACE/NAME"
            )
        check_word(value, what)
    return Channel.parse(f"{env}/{namespace}/{release}")


def _consul(environ: Mapping[str, str]) -> Consul:
    from handlers.adapters.kv import ConsulKV

    return ConsulKV.from_env(environ)
