"""Take what Hydra's image never uses out of its Python packages: `slim.py SITE_PACKAGES`. The build runs it.

A name that is not there ends it: with another version of a package somebody has to look again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# The client is there for its authentication and its connection; objects stay parsed JSON, and models unused.
KUBERNETES = ("kubernetes/aio", "kubernetes/client/api", "kubernetes/client/models")
ONLY_FOR_AIO = (
    "aiohappyeyeballs", "aiohttp", "aiohttp_retry", "aiosignal", "attr", "attrs", "frozenlist", "multidict",
    "propcache", "yarl",
)  # fmt: skip
# Descriptions of AWS services: S3, and those that hand out credentials.
SERVICES = {"s3", "signin", "sso", "sso-oidc", "sts"}
# Nothing is installed into an image, or tested in it.
TOOLS = ("pip", "setuptools", "_distutils_hack", "distutils-precedence.pth", "supervisor/tests")


def main(site: Path) -> None:
    for name in (*KUBERNETES, *ONLY_FOR_AIO, *TOOLS):
        remove(site / name)
    for name in ("api", "models"):
        # the package still says what it had; each is imported when it is asked for, so none is missed
        keep_empty(site / "kubernetes" / "client" / name)
    for service in (site / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    for test in site.glob("kubernetes/**/*_test.py"):
        test.unlink()


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def keep_empty(folder: Path) -> None:
    folder.mkdir()
    (folder / "__init__.py").write_text("")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
