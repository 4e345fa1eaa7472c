"""The rules about who imports whom, and the traps of the name `consul`."""

import ast
import subprocess
import sys
from pathlib import Path

from handlers import resources

ROOT = Path(__file__).resolve().parent.parent


def test_imports_keep_the_layers() -> None:
    command = Path(sys.executable).with_name("lint-imports")

    answer = subprocess.run([command], cwd=ROOT, capture_output=True, text=True)

    assert answer.returncode == 0, answer.stdout


def test_core_imports_the_standard_library_msgspec_and_itself_only() -> None:
    """The contracts name what is forbidden; this names what is allowed, so that nothing new slips in."""
    foreign = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in (ROOT / "handlers" / "core").rglob("*.py")
        for name in imported(file)
        if name.split(".")[0] not in {*sys.stdlib_module_names, "msgspec"}
        and not name.startswith("handlers.core")
    }

    assert foreign == set()


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import hides where it leads"
            names.add(str(node.module))
    return names


def test_consul_is_the_client_even_where_the_checkout_comes_first() -> None:
    code = "import sys; sys.path.insert(0, '.'); import consul; consul.Consul; print(consul.__file__)"

    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr
    assert not Path(answer.stdout).is_relative_to(ROOT / "consul")


def test_consul_folder_holds_no_python() -> None:
    """With an `__init__.py` it would shadow the client of the same name."""
    assert list((ROOT / "consul").rglob("*.py")) == []


def test_resources_of_a_checkout_are_those_at_its_top() -> None:
    assert resources.path("templates") == ROOT / "templates"
