"""Images for the test cluster, built here from what is here: nothing is pulled.

    hydra.test/pause:1            busybox, which sleeps: what containerd holds a pod's namespaces with
    hydra.test/python:1           a small Debian with Python, made by mmdebstrap; wheels of all that Hydra
    needs hydra.test/consul, …-template the programs that `tools/programs.py` built
    hydra.test/hydra:test         k8s/Dockerfile on top of these

Archives are in the cache beside the programs, named after what they were made from, so that a second run
builds only Hydra's own image, and that only when the checkout changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra_cli.programs import program

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "hydra.test"
PAUSE, PYTHON, HYDRA = f"{REGISTRY}/pause:1", f"{REGISTRY}/python:1", f"{REGISTRY}/hydra:test"
CONSUL, CONSUL_TEMPLATE = f"{REGISTRY}/consul:1", f"{REGISTRY}/consul-template:1"
PACKAGES = ("python3-minimal", "python3-venv", "ca-certificates")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOURCES = (
    "setup.py",
    "requirements.lock",
    "consul",
    "handlers",
    "hydra_cli",
    "k8s/Dockerfile",
    "k8s/entrypoint.sh",
    "templates",
    "tools",
    "watches",
)


class Images:
    """The archives; `folder` is the cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "buildah"
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> list[Path]:
        """Archives of the images that nodes need; builds what is missing."""
        return [self.pause(), self.hydra()]

    def pause(self) -> Path:
        """For containerd; busybox is what `tools/kubernetes/setup.sh` installs."""
        script = "trap exit TERM; while :; do sleep 3600 & wait; done"
        lines = ["FROM scratch", *(f"COPY busybox /bin/{name}" for name in ("busybox", "sh", "sleep"))]
        text = "\n".join([*lines, f"ENTRYPOINT {json.dumps(['/bin/sh', '-c', script])}", ""])
        return self._built(PAUSE, text, {"busybox": Path("/bin/busybox")}, ["/bin/busybox"])

    def python(self) -> Path:
        """The base of Hydra's image and of the services under test."""
        key = [*PACKAGES, (ROOT / "requirements.lock").read_text(), (ROOT / "setup.py").read_text()]
        text = (
            "FROM scratch\nADD root.tar /\nCOPY wheels /wheels\n"
            f"ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PATH={PATH}\n"
        )
        return self._built(PYTHON, text, {}, key, self._python_context)

    def hydra(self) -> Path:
        """k8s/Dockerfile, as everybody builds it, on bases that were made here."""
        self.python()
        for name, image in (("consul", CONSUL), ("consul-template", CONSUL_TEMPLATE)):
            text = f"FROM scratch\nCOPY {name} /bin/{name}\n"
            self._built(image, text, {name: program(name)}, [str(program(name))])
        sources = [file for source in SOURCES for file in _files(ROOT / source)]
        key = [*(f"{file.relative_to(ROOT)} {_digest(file)}" for file in sources), *self._ids(PYTHON)]
        archive = self._archive(HYDRA, key)
        if not archive.exists():
            bases = {"PYTHON_IMAGE": PYTHON, "CONSUL_IMAGE": CONSUL, "CONSUL_TEMPLATE_IMAGE": CONSUL_TEMPLATE}
            words = [word for name, base in bases.items() for word in ("--build-arg", f"{name}={base}")]
            self._build(HYDRA, ROOT, ROOT / "k8s" / "Dockerfile", *words)
            self._save(HYDRA, archive)
        return archive

    def _ids(self, image: str) -> list[str]:
        return self._buildah("images", "--quiet", "--no-trunc", image).split()

    def _built(
        self, image: str, text: str, files: dict[str, Path], key: Iterable[str], more: object = None
    ) -> Path:
        archive = self._archive(image, [text, *key])
        if archive.exists() and self._known(image):
            return archive
        context = self.folder / "context"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        for name, source in files.items():
            shutil.copy(source, context / name)
        if callable(more):
            more(context)
        (context / "Dockerfile").write_text(text)
        self._build(image, context, context / "Dockerfile")
        self._save(image, archive)
        shutil.rmtree(context)
        return archive

    def _python_context(self, context: Path) -> None:
        """A Debian root, and the wheels of what Hydra runs with, at the versions of the lock file."""
        packages = f"--include={','.join(PACKAGES)}"
        _run("mmdebstrap", "--variant=minbase", packages, "bookworm", str(context / "root.tar"))
        names = re.findall(
            r"^([a-z0-9._-]+==[^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
        )
        constraints = context / "constraints.txt"
        constraints.write_text("\n".join(names))
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(context / "wheels")]
        _run(*pip, "--constraint", str(constraints), f"{ROOT}[k8s]", "setuptools", "wheel")

    def _archive(self, image: str, key: Iterable[str]) -> Path:
        digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
        return self.folder / f"{image.rpartition('/')[2].replace(':', '-')}-{digest}.tar"

    def _build(self, image: str, context: Path, file: Path, *words: str) -> None:
        common = ("bud", "--isolation=chroot", "--pull-never", "--layers", "--format=docker")
        self._buildah(*common, "--tag", image, "--file", str(file), *words, str(context))

    def _save(self, image: str, archive: Path) -> None:
        """Under its last name only once it is whole; what was made from older sources goes."""
        for old in self.folder.glob(f"{archive.name.rpartition('-')[0]}-*.tar"):
            old.unlink()
        aside = archive.with_suffix(".part")
        self._buildah("push", "--quiet", image, f"docker-archive:{aside}:{image}")
        aside.rename(archive)

    def _known(self, image: str) -> bool:
        command = [*self._command(), "inspect", "--type=image", image]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _command(self) -> list[str]:
        runtime = self.folder / "run"
        return ["buildah", "--storage-driver=overlay", f"--root={self.store}", f"--runroot={runtime}"]

    def _buildah(self, *words: str) -> str:
        return _run(*self._command(), *words)


def _run(*command: str) -> str:
    answer = subprocess.run(["nice", "-n", "10", *command], capture_output=True, text=True)
    if answer.returncode:
        raise AssertionError(
            f"{' '.join(command)} ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}"
        )
    return answer.stdout


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (f for f in sorted(path.rglob("*")) if f.is_file() and "__pycache__" not in f.parts)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def cache() -> Path:
    """Beside the programs of `tools/programs.py`."""
    own = os.environ.get("HYDRA_CACHE")
    return (Path(own) if own else Path("~/.cache/hydra").expanduser()) / "images"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        for path in Images(cache()).all():
            print(path)
