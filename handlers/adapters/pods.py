"""The Kubernetes API: objects as they are, kept true by list and watch; conditions and events of pods.

The only importer of `kubernetes`. One process per node pays for that import (discover, and enroll on a
planner). Objects stay parsed JSON: building the client's typed models costs several times the memory, and
decisions are made on the few fields that `handlers.core.pods` reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from handlers import log
from handlers.core.errors import Conflict, Denied, HydraError, Temporary
from handlers.core.pods import CONSUMER, DATA_READY

CONNECT_S, ANSWER_S = 5.0, 15.0
WATCH_S = 60  # of one watch; a dead connection is noticed this late at the latest
UNSEEN_AFTER_S = 5.0  # for so long a restart of the API server changes nothing
AWAY_S = 1.0
REMEMBERED = 1000  # UIDs of objects that were deleted
_MERGE = "application/strategic-merge-patch+json"
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Query:
    """A collection, or the part of it that selectors choose: `api` as `v1`, `apps/v1`; `plural` as `pods`."""

    api: str
    plural: str
    namespace: str = ""
    selectors: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The path of the collection."""
        return collection(self.api, self.plural, self.namespace)


@dataclass(frozen=True)
class About:
    """An object that an Event is about."""

    namespace: str
    name: str
    uid: str
    api: str = "v1"
    kind: str = "Pod"


def collection(api: str, plural: str, namespace: str = "") -> str:
    """The path of a collection; of all namespaces where none is given."""
    root = f"/apis/{api}" if "/" in api else f"/api/{api}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def pods_of(node: str) -> Query:
    """The pods of one node that read data."""
    selectors = {"fieldSelector": f"spec.nodeName={node}", "labelSelector": f"{CONSUMER}=true"}
    return Query("v1", "pods", selectors=selectors)


def workloads(api: str, plural: str) -> Query:
    """The workloads of one kind that say of themselves that their pods read data."""
    return Query(api, plural, selectors={"labelSelector": f"{CONSUMER}=true"})


class Api:
    """The API server, as the pod's service account or the kubeconfig of the environment sees it.

    Every method raises `Temporary` when it is away or overloaded, `Denied`, `Conflict`, else `HydraError`.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        from kubernetes import client, config

        settings = client.Configuration()
        if "KUBERNETES_SERVICE_HOST" in environ:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        else:
            config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        settings.retries = False  # who calls decides when to try again
        self._client = client.ApiClient(settings)

    def list(self, query: Query) -> tuple[list[Json], str]:
        """All objects, and the version from which to watch."""
        answer = self._json("GET", query.path, dict(query.selectors))
        return list(answer.get("items") or ()), str(answer["metadata"]["resourceVersion"])

    def watch(self, query: Query, version: str) -> Iterator[Json]:
        """Events after `version`, for up to a minute; `Expired` when the server has forgotten it."""
        more = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        words = {**query.selectors, **more, "timeoutSeconds": str(WATCH_S)}
        with self._answer("GET", query.path, words, limit_s=WATCH_S + ANSWER_S) as answer:
            rest = b""
            for piece in _pieces(answer, query.path):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Expired(f"watch {query.path}: {event['object'].get('message', 'ended')}")
                    yield event

    def read(self, path: str) -> Json | None:
        """One object; None when there is none."""
        try:
            return self._json("GET", path, {})
        except NotThere:
            return None

    def set_data_ready(self, namespace: str, pod: str, uid: str, status: str, reason: str, text: str) -> None:
        """Write the data-ready condition of the pod with this UID; nothing when that pod is gone."""
        condition = {"type": DATA_READY, "status": status, "reason": reason, "message": text}
        body = {
            # with the UID a patch never reaches another pod of the same name
            "metadata": {"uid": uid},
            "status": {"conditions": [{**condition, "lastTransitionTime": _now()}]},
        }
        path = f"{collection('v1', 'pods', namespace)}/{pod}/status"
        with contextlib.suppress(NotThere, Conflict):
            self._json("PATCH", path, {}, body, _MERGE)

    def say(self, about: About, kind: str, reason: str, text: str) -> None:
        """An Event on an object, for `kubectl describe`; `kind` is Normal or Warning."""
        body = {
            "metadata": {"generateName": f"{about.name[:200]}.", "namespace": about.namespace},
            "involvedObject": {
                "apiVersion": about.api,
                "kind": about.kind,
                "namespace": about.namespace,
                "name": about.name,
                "uid": about.uid,
            },
            "type": kind,
            "reason": reason,
            "message": text[:1000],
            "source": {"component": "hydra"},
            "firstTimestamp": _now(),
            "lastTimestamp": _now(),
            "count": 1,
        }
        self._json("POST", collection("v1", "events", about.namespace), {}, body)

    def _json(
        self, method: str, path: str, query: Mapping[str, str], body: object = None, kind: str = ""
    ) -> Json:
        with self._answer(method, path, query, body, kind) as answer:
            raw = b"".join(_pieces(answer, path))
        return dict(json.loads(raw))

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object = None,
        kind: str = "application/json",
        limit_s: float = ANSWER_S,
    ) -> Iterator[Any]:
        """The open answer of a request that the server accepted."""
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json"} | ({"Content-Type": kind} if body is not None else {})
        what = f"{method} {path}"
        request = self._client.param_serialize(
            method, path, query_params=list(query.items()), header_params=headers, body=body,
            auth_settings=["BearerToken"],
        )  # fmt: skip
        try:
            answer = self._client.call_api(*request, _request_timeout=(CONNECT_S, limit_s)).response
        except (HTTPError, OSError) as e:
            raise Temporary(f"{what}: {type(e).__name__}: {e}"[:300]) from None
        try:
            if answer.status >= 300:
                raise _refused(what, answer.status, b"".join(_pieces(answer, path)))
            yield answer
        finally:
            answer.close()


class Expired(Temporary):
    """The server has forgotten the version from which a watch should go on: list again."""


class NotThere(HydraError):
    """There is no such object."""


def _refused(what: str, status: int, body: bytes) -> HydraError:
    try:
        said = str(json.loads(body).get("message", ""))
    except ValueError:
        said = ""
    text = f"{what}: HTTP {status}: {said or 'no reason given'}"
    if status in (429, 500, 502, 503, 504):
        return Temporary(text)
    kinds = {401: Denied, 403: Denied, 404: NotThere, 409: Conflict, 410: Expired}
    return kinds.get(status, HydraError)(text)


def _pieces(answer: Any, path: str) -> Iterator[bytes]:
    """The body as it arrives; a connection that breaks raises `Temporary`."""
    from urllib3.exceptions import HTTPError

    try:
        yield from (
            answer.stream(amt=None, decode_content=True) if not answer.chunked else answer.read_chunked()
        )
    except (HTTPError, OSError) as e:
        raise Temporary(f"{path}: {type(e).__name__}: {e}"[:300]) from None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True)
class Picture:
    """What the API server has for a query; without `known` it cannot be seen now.

    `ended`: UIDs of objects that it said were deleted.
    """

    known: bool = False
    objects: Mapping[str, Json] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()


class Mirror:
    """A picture kept true by a thread that lists once, then watches; `ring` is called when it changed."""

    def __init__(
        self, api: Api, query: Query, ring: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._query, self._ring, self._clock = api, query, ring, clock
        self._objects: dict[str, Json] = {}
        self._ended: deque[str] = deque(maxlen=REMEMBERED)
        self._failing_since: float | None = None
        self._listed = False
        self._version = ""  # from which to watch; empty: list first
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        threading.Thread(target=self._run, name=f"mirror {self._query.plural}", daemon=True).start()

    def picture(self) -> Picture:
        """What is there now."""
        with self._lock:
            since = self._failing_since
            away = since is not None and self._clock() - since > UNSEEN_AFTER_S
            return Picture(self._listed and not away, dict(self._objects), frozenset(self._ended))

    def _run(self) -> None:
        while True:
            if not self.step():
                time.sleep(AWAY_S * random.uniform(0.5, 1.5))

    def step(self) -> bool:
        """One round, whatever comes of it; whether the server answered."""
        try:
            self.round()
        except Expired:
            self._version = ""
        except HydraError as e:
            self._failed(e)
            return False
        return True

    def round(self) -> None:
        """List if that was not done yet, or has to be done again; else watch until the server ends that."""
        if self._version:
            for event in self._api.watch(self._query, self._version):
                self._take(event)
                self._version = str(event["object"]["metadata"]["resourceVersion"])
        else:
            objects, version = self._api.list(self._query)
            with self._lock:
                self._objects = {str(value["metadata"]["uid"]): value for value in objects}
                self._listed = True
            self._version = version
        self._answered()

    def _take(self, event: Json) -> None:
        value = event["object"]
        if event["type"] != "BOOKMARK":
            uid = str(value["metadata"]["uid"])
            with self._lock:
                if event["type"] == "DELETED":
                    self._objects.pop(uid, None)
                    self._ended.append(uid)
                else:
                    self._objects[uid] = value
        self._answered()

    def _answered(self) -> None:
        with self._lock:
            self._failing_since = None
        self._ring()

    def _failed(self, error: HydraError) -> None:
        with self._lock:
            first = self._failing_since is None
            if first:
                self._failing_since = self._clock()
        if first:
            log.warning("pods", f"cannot watch {self._query.plural}", error=error)
        self._ring()
