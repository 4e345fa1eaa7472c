"""What `pip install .` brings must be enough: installed into an empty folder and used from another one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ("consul", "templates", "tools")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hydra installed from a copy of the checkout: a build writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("package")
    made_here = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, folder / "source", ignore=made_here)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *options, str(folder / "source")], check=True)
    return folder / "site"


def test_top_level_packages_are_those_listed(installed: Path) -> None:
    """Above all no `consul`, `tests` or `tools`, which would shadow those of others."""
    names = {entry.name for entry in installed.iterdir() if not entry.name.endswith(".dist-info")}

    assert names == {"bin", "handlers", "hydra_cli", "watches"}
    assert {entry.name for entry in (installed / "bin").iterdir()} == {"hydra", "hydra-handler"}


def test_every_python_package_of_the_checkout_is_installed(installed: Path) -> None:
    for top in ("handlers", "hydra_cli", "watches"):
        modules = {file.relative_to(ROOT) for file in (ROOT / top).rglob("*.py") if "_data" not in file.parts}

        assert {module for module in modules if not (installed / module).exists()} == set()


@pytest.mark.parametrize("folder", DATA)
def test_data_is_installed_and_found_from_any_directory(installed: Path, tmp_path: Path, folder: str) -> None:
    checkout = {str(file.relative_to(ROOT / folder)) for file in (ROOT / folder).rglob("*") if file.is_file()}
    wanted = {name for name in checkout if not name.endswith(".pyc")}
    code = (
        "import sys; from handlers import resources; top = resources.path(sys.argv[1]);"
        "print(*(f.relative_to(top) for f in top.rglob('*') if f.is_file()), sep='\\n', end='')"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}

    found = subprocess.run(
        [sys.executable, "-c", code, folder],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert {name for name in found.stdout.splitlines() if not name.endswith(".pyc")} == wanted
    assert wanted
