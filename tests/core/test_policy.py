"""The texts of a subscription: what they mean, and what is refused."""

import pytest

from handlers.core import policy
from handlers.core.errors import Usage
from handlers.core.model import ServicePlan, Subscription


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("http://:8080/reload", policy.HttpReload(policy.Url("/reload", 8080))),
        ("http://:/reload?now=1", policy.HttpReload(policy.Url("/reload?now=1"))),
        ("http://localhost:9000/", policy.HttpReload(policy.Url("/", 9000, "localhost"))),
        ("signal:HUP@pidfile:/run/p-{id}.pid", policy.SignalReload("HUP", pidfile="/run/p-{id}.pid")),
        ("signal:USR1@supervisor:g:p-{id}", policy.SignalReload("USR1", program="g:p-{id}")),
        ("restart:supervisor:places", policy.RestartReload("places")),
        ("systemd:places@{id}.service", policy.SystemdReload("places@{id}.service")),
        ("delete", policy.DeleteReload()),
        ("signal:HUP@container:reader", policy.ContainerReload("reader", "HUP")),
        ("restart:container:reader", policy.ContainerReload("reader", restart=True)),
        ("none", policy.NoReload()),
        ("frozen", policy.Frozen()),
    ],
)
def test_reload_text_is_understood(text: str, meaning: policy.Reload) -> None:
    assert policy.parse_reload(text) == meaning


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("health", policy.ByHealth()),
        ("maps", policy.ByMaps()),
        ("http://:8080/info#release", policy.ByHttp(policy.Url("/info", 8080), "release")),
        ("http:http://:/info#data.version", policy.ByHttp(policy.Url("/info"), "data.version")),
    ],
)
def test_confirm_text_is_understood(text: str, meaning: policy.Confirm) -> None:
    assert policy.parse_confirm(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "None",
        "http",
        "http://",
        "http://8080/reload",
        "http://:8080",
        "http://:99999/x",
        "http://example.org:80/x",
        "http://10.0.0.1:80/x",
        "http://:80/x y",
        "http://:80/x#y",
        "https://:80/x",
        "signal:KILL@pidfile:/run/x",
        "signal:HUP",
        "signal:HUP@pidfile:run/x",
        "signal:HUP@pidfile:/run/{name}",
        "signal:HUP@supervisor:a b",
        "restart:places",
        "restart:supervisor:",
        "restart:supervisor:{node}",
        "restart:container:",
        "signal:HUP@container:A b",
        "delete:now",
        "systemd:",
        "systemd:--now.service",
        "systemd:places.timer",
    ],
)
def test_wrong_reload_text_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="reload"):
        policy.parse_reload(text)


@pytest.mark.parametrize("text", ["command:swap"])
def test_reload_of_a_later_version_says_so(text: str) -> None:
    with pytest.raises(Usage, match="not supported by this version"):
        policy.parse_reload(text)


@pytest.mark.parametrize(
    "text", ["", "Health", "http://:80/x", "http://:80/x#", "http:/x#y", "http://h:80/x#y"]
)
def test_wrong_confirm_text_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="confirm"):
        policy.parse_confirm(text)


def test_a_whole_subscription_and_its_plan_are_understood_alike() -> None:
    texts = {"reload": "http://:/r", "confirm": "maps", "drain": "maintenance", "ram": "via-disk"}

    understood = policy.parse(Subscription(**texts))  # type: ignore[arg-type]

    assert understood == policy.parse(ServicePlan(aliases={}, **texts))  # type: ignore[arg-type]
    assert understood.drain is policy.Drain.MAINTENANCE


@pytest.mark.parametrize(("field", "text"), [("drain", "slowly"), ("ram", "no")])
def test_wrong_word_names_its_field(field: str, text: str) -> None:
    with pytest.raises(Usage, match=f"^{field}"):
        policy.parse(Subscription(**{field: text}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "address", "whole"),
    [
        (policy.Url("/r"), "10.0.0.7", "http://10.0.0.7:70/r"),
        (policy.Url("/r", 80), "", "http://127.0.0.1:80/r"),
        (policy.Url("/r", 80, "localhost"), "10.0.0.7", "http://localhost:80/r"),
        (policy.Url("/r"), "fd00::1", "http://[fd00::1]:70/r"),
    ],
)
def test_url_is_that_of_the_instance(url: policy.Url, address: str, whole: str) -> None:
    assert url.at(address, 70) == whole


@pytest.mark.parametrize("order", [{"canaries": 1}, {"check": "http://:/healthz"}])
def test_nobody_goes_first_where_instances_are_deleted(order: dict[str, object]) -> None:
    with pytest.raises(Usage, match="none of these can go first"):
        policy.of_subscription(Subscription(reload="delete", **order))  # type: ignore[arg-type]
