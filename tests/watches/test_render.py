"""The texts that `hydra node run` writes, against golden files.

After a wanted change `python -m tests.watches.test_render` writes them anew; read the difference.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import asdict

from handlers.core.errors import Usage
from handlers.settings import Settings
from watches import render
from watches.registry import Scope

GOLDEN = Path(__file__).with_name("golden")
PROGRAMS = render.Programs(
    python="/opt/hydra/bin/python",
    consul="/usr/bin/consul",
    consul_template="/usr/bin/consul-template",
    setpriv="/usr/bin/setpriv",
)
ENVIRON = {
    "CONSUL_HTTP_ADDR": "https://consul.example:8501",
    "CONSUL_HTTP_TOKEN": "s3cret-token",
    "CONSUL_CACERT": "/etc/hydra/ca.pem",
    "CONSUL_CLIENT_CERT": '/etc/hydra/with "quotes".pem',
    "CONSUL_CLIENT_KEY": "/etc/hydra/key.pem",
    "AWS_SECRET_ACCESS_KEY": "s3cret-key",
    "HYDRA_CONFIG": "/etc/hydra/50% node.toml",
}


def settings(root: str = "/var/lib/hydra", include: str = "/etc/hydra/services/*.conf") -> Settings:
    return Settings(
        root=Path(root), node="n1", config=Path("/etc/hydra/node.toml"), supervisor_include=include
    )


def files(root: str = "/var/lib/hydra", scope: Scope = "node") -> render.Files:
    return render.Files.of(Path(root), scope, Path("/run"))


def conf(scope: Scope) -> str:
    return render.supervisord(settings(), "n1", files(scope=scope), PROGRAMS, scope)


TEXTS: dict[str, Callable[[], str]] = {
    "node.conf": lambda: conf("node"),
    "planner.conf": lambda: conf("cluster"),
    "base.hcl": lambda: render.consul_template(files(), {"CONSUL_HTTP_ADDR": "127.0.0.1:8500"}),
    "base-tls.hcl": lambda: render.consul_template(files(), ENVIRON),
    "hydra-node.service": lambda: render.unit(settings(), ENVIRON, "node", Path("/opt/hy dra/bin/hydra")),
    "hydra-planner.service": lambda: render.unit(settings(), {}, "cluster", Path("/opt/hydra/bin/hydra")),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_the_golden_one(name: str) -> None:
    assert TEXTS[name]() == (GOLDEN / name).read_text()


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_holds_a_secret(name: str) -> None:
    assert "s3cret" not in TEXTS[name]()


@pytest.mark.parametrize("root", ["/a\nb", "/a ;b", "/a #b"])
def test_root_that_would_end_a_value_is_refused(root: str) -> None:
    with pytest.raises(Usage, match=r"supervisord\.conf"):
        render.supervisord(settings(root), "n1", files(root), PROGRAMS, "node")


def test_percent_in_the_root_is_not_an_expansion() -> None:
    text = render.supervisord(settings("/50%"), "n1", files("/50%"), PROGRAMS, "node")

    assert "pidfile=/50%%/state/supervisord.pid" in text


def test_without_setpriv_programs_are_started_bare() -> None:
    bare = render.Programs(PROGRAMS.python, PROGRAMS.consul, PROGRAMS.consul_template)

    assert "setpriv" not in render.supervisord(settings(), "n1", files(), bare, "node")


def test_long_root_puts_the_socket_into_the_runtime_folder() -> None:
    """The kernel refuses socket paths over 107 bytes, and supervisord would never start."""
    one, two = (files("/" + "x" * 90 + letter).socket for letter in "ab")

    assert one.parent.parent == Path("/run")
    assert one != two
    assert len(bytes(one)) < 60


def test_files_of_node_and_planner_have_different_names() -> None:
    node, planner = asdict(files()), asdict(files(scope="cluster"))
    own = {name for name in node if not name.startswith("template")}

    assert not {node[name] for name in own} & {planner[name] for name in own}


@pytest.mark.parametrize("name", ["hydra-node.service", "hydra-planner.service"])
def test_systemd_understands_the_unit(name: str, tmp_path: Path) -> None:
    hydra = tmp_path / "hydra"
    hydra.write_text("#!/bin/sh\n")
    hydra.chmod(0o755)
    scope: Scope = "node" if name == "hydra-node.service" else "cluster"
    unit = tmp_path / name
    unit.write_text(render.unit(settings(), ENVIRON, scope, hydra))

    if analyze := shutil.which("systemd-analyze"):
        answer = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
        assert (answer.returncode, name in answer.stderr) == (0, False), answer.stderr
    else:  # no systemd here: at least its sections and the command are there
        assert f"ExecStart={hydra} node run" in unit.read_text().split("[Service]")[1]


if __name__ == "__main__":
    for name, text in TEXTS.items():
        (GOLDEN / name).write_text(text())
