"""The Kubernetes API: objects as they are, watched; conditions and events of pods, and what is done to them.

The only importer of `kubernetes`. One process per node pays for that import (discover, and enroll on a
planner). Objects stay parsed JSON: building the client's typed models costs several times the memory, and
decisions are made on the few fields that `handlers.core.pods` reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from handlers.core.errors import Conflict, Denied, HydraError, Temporary
from handlers.core.marks import Change
from handlers.core.pods import CONSUMER, DATA_READY

CONNECT_S, ANSWER_S = 5.0, 15.0
WATCH_S = 60  # of one watch; a dead connection is noticed this late at the latest
_MERGE = "application/strategic-merge-patch+json"
_REPLACE = "application/merge-patch+json"  # lists whole
Json = Mapping[str, Any]


class Query(Struct, frozen=True):
    """A collection, or the part of it that selectors choose: `api` as `v1`, `apps/v1`; `plural` as `pods`."""

    api: str
    plural: str
    namespace: str = ""
    selectors: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The path of the collection."""
        return collection(self.api, self.plural, self.namespace)


class About(Struct, frozen=True):
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
        self._settings, self._client = settings, client.ApiClient(settings)

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

    def mark(self, node: str, version: str, change: Change) -> None:
        """Change labels and taints of a node that is still of this version; raises `Conflict` otherwise."""
        body: dict[str, Any] = {"metadata": {"resourceVersion": version, "labels": dict(change.labels)}}
        if change.taints is not None:
            body["spec"] = {"taints": list(change.taints)}
        self._json("PATCH", f"{collection('v1', 'nodes')}/{node}", {}, body, _REPLACE)

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

    def delete(self, namespace: str, pod: str, uid: str) -> None:
        """Delete the pod with this UID, in its own time; nothing when it is gone."""
        with contextlib.suppress(NotThere, Conflict):  # a conflict: another pod of this name
            body = {"preconditions": {"uid": uid}}
            self._json("DELETE", f"{collection('v1', 'pods', namespace)}/{pod}", {}, body)

    def signal(self, namespace: str, pod: str, container: str, name: str) -> None:
        """Send a signal to process 1 of a container, by a shell in there."""
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream.ws_client import ERROR_CHANNEL, websocket_call
        from websocket import WebSocketBadStatusException, WebSocketException

        path = f"{collection('v1', 'pods', namespace)}/{pod}/exec"
        command = ["/bin/sh", "-c", f"kill -{name} 1"]
        words = [("container", container), ("stderr", "true"), *(("command", word) for word in command)]
        request = self._client.param_serialize("GET", path, auth_settings=["BearerToken"])
        _, url, headers, *_ = request
        try:
            shell = websocket_call(  # type: ignore[no-untyped-call]
                self._settings, "GET", url, query_params=words, headers=headers, _preload_content=False
            )
            try:
                shell.run_forever(timeout=ANSWER_S)
                ended = shell.read_channel(ERROR_CHANNEL)  # first: read_all forgets it
                said = shell.read_all().strip()
            finally:
                shell.sock.shutdown()  # its close leaves the socket open where the server has closed already
        except (ApiException, WebSocketException, OSError) as e:
            answer = e.__context__  # the client of Kubernetes keeps what the server answered nowhere else
            if isinstance(answer, WebSocketBadStatusException):
                raise _refused(f"GET {path}", answer.status_code, answer.resp_body or b"") from None
            raise Temporary(f"GET {path}: {getattr(e, 'reason', '') or e}"[:300]) from None
        what = f"kill -{name} 1 in container {container}"
        if not ended:
            raise Temporary(f"{what}: no answer")
        if fault := _fault(ended):
            raise HydraError(f"{what}: {said or fault}"[:300])

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
        from kubernetes.client.exceptions import ApiException
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
        except ApiException as e:  # no answer of the server: what the client makes of errors of TLS
            raise Temporary(f"{what}: {': '.join(str(e.reason).splitlines())}"[:300]) from None
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


def _fault(ended: str) -> str:
    """Why a command in a container failed, by the status that the API server ends it with; else empty."""
    try:
        status = json.loads(ended)
        return "" if status.get("status") == "Success" else str(status.get("message") or "failed")
    except (ValueError, AttributeError):
        return f"no answer that makes sense: {ended}"


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
