"""Images for the test cluster, built here from what is here: nothing is pulled.

    pause                    busybox, which sleeps: what containerd holds a pod's namespaces with
    debian, python           a small Debian with Python, made by mmdebstrap; with wheels of what Hydra needs
    consul, consul-template  the programs that `tools/programs.py` built
    hydra                    k8s/Dockerfile on top of these; and once more under another version

All are named after what they are made from and kept in the cache beside the programs, so that a second run
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra_cli.programs import program

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "hydra.test"
PAUSE, HYDRA, NEXT = (f"{REGISTRY}/{name}" for name in ("pause:1", "hydra:test", "hydra:next"))
NEXT_VERSION = "0.1.0.post1"  # of what an upgrade brings
PACKAGES = ("python3-venv", "ca-certificates", "mount", "usr-is-merged")
# as in slim images: no documentation, no translations; nor perl, which is for merging /usr in place
SLIM = (
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--hook-directory=/usr/share/mmdebstrap/hooks/merged-usr",
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOURCES = (
    "setup.py",
    "requirements.lock",
    "consul",
    "handlers",
    "hydra_cli",
    "k8s/Dockerfile",
    "k8s/entrypoint.sh",
    "k8s/slim.py",
    "templates",
    "tools",
    "watches",
)


class Images:
    """The archives that nodes get; `folder` is the cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "buildah"
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> list[Path]:
        """Archives of the images that nodes need; builds what is missing."""
        return [self.pause(), self.both()]

    def pause(self) -> Path:
        """For containerd; busybox is what `tools/kubernetes/setup.sh` installs."""
        script = "trap exit TERM; while :; do sleep 3600 & wait; done"
        lines = ["FROM scratch", *(f"COPY busybox /bin/{name}" for name in ("busybox", "sh", "sleep"))]
        text = "\n".join([*lines, f"ENTRYPOINT {json.dumps(['/bin/sh', '-c', script])}", ""])
        made = self._base("pause", text, [], partial(_copy, Path("/bin/busybox")))
        return self._saved(PAUSE, made, [made])

    def hydra(self) -> Path:
        """k8s/Dockerfile, as everybody builds it, on bases that were made here."""
        bases = self._bases()
        key = [*_sources(), *bases.values()]
        if not self._archive(HYDRA, key).exists():
            self._build_hydra(bases)
        return self._saved(HYDRA, HYDRA, key)

    def both(self) -> Path:
        """The same, and once more under another tag and with another version, as what an upgrade brings: for
        containerd, with what they have in common in there once.
        """
        bases = self._bases()
        change = f"s/^Version: .*/Version: {NEXT_VERSION}/"
        text = f"FROM {HYDRA}\nRUN sed -i '{change}' $(grep -l ^Version: /opt/hydra/hydra_datasets-*/*)\n"
        archive = self._archive("hydra-both", [*_sources(), *bases.values(), text])
        if not archive.exists():
            self._build_hydra(bases)
            with self._context() as context:
                (context / "Dockerfile").write_text(text)
                self._build(NEXT, context, context / "Dockerfile")
            with self._context() as layout:
                for image in (HYDRA, NEXT):
                    words = (
                        "--quiet",
                        "--disable-compression",
                        image,
                        f"oci:{layout}:{image}",
                    )
                    self._buildah("push", *words)
                self._keep(archive, lambda aside: _run("tar", "-C", str(layout), "-cf", str(aside), "."))
        return archive

    def _bases(self) -> dict[str, str]:
        """What k8s/Dockerfile stands on, by build argument."""
        debian = self._debian()
        bases = {"PYTHON_IMAGE": self._python(debian), "RUNTIME_IMAGE": debian}
        for name, argument in (("consul", "CONSUL_IMAGE"), ("consul-template", "CONSUL_TEMPLATE_IMAGE")):
            text = f"FROM scratch\nCOPY {name} /bin/{name}\n"
            bases[argument] = self._base(name, text, [str(program(name))], partial(_copy, program(name)))
        return bases

    def _build_hydra(self, bases: Mapping[str, str]) -> None:
        words = [word for name, base in bases.items() for word in ("--build-arg", f"{name}={base}")]
        self._build(HYDRA, ROOT, ROOT / "k8s" / "Dockerfile", *words)

    def _debian(self) -> str:
        """Debian with Python."""
        text = f"FROM scratch\nADD root.tar /\nENV PATH={PATH}\n"
        return self._base("debian", text, (*PACKAGES, *SLIM), _debian_root)

    def _python(self, debian: str) -> str:
        """The same with wheels, since there is nothing to install from in a build."""
        key = [(ROOT / "requirements.lock").read_text(), (ROOT / "setup.py").read_text()]
        text = f"FROM {debian}\nCOPY wheels /wheels\nENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels\n"
        return self._base("python", text, key, _wheels)

    def _base(self, name: str, text: str, key: Iterable[str], fill: Callable[[Path], None]) -> str:
        """An image of the store, named after what it is made from; made in a folder that `fill` fills."""
        image = f"{REGISTRY}/{name}:{_short([text, *key])}"
        known = [*self._command(), "inspect", "--type=image", image]
        if subprocess.run(known, capture_output=True).returncode:
            with self._context() as context:
                fill(context)
                (context / "Dockerfile").write_text(text)
                self._build(image, context, context / "Dockerfile")
        return image

    def _archive(self, image: str, key: Iterable[str]) -> Path:
        return self.folder / f"{image.rpartition('/')[2].replace(':', '-')}-{_short(key)}.tar"

    def _saved(self, name: str, image: str, key: Iterable[str]) -> Path:
        """The archive of `image` under the name `name`; what was made from older sources goes."""
        archive = self._archive(name, key)
        if not archive.exists():
            words = ("push", "--quiet", image)
            self._keep(archive, lambda aside: self._buildah(*words, f"docker-archive:{aside}:{name}"))
        return archive

    def _keep(self, archive: Path, write: Callable[[Path], object]) -> None:
        for old in self.folder.glob(f"{archive.name.rpartition('-')[0]}-*"):
            old.unlink()
        aside = archive.with_suffix(".part")
        write(aside)
        aside.rename(archive)  # under its last name only once it is whole

    @contextlib.contextmanager
    def _context(self) -> Iterator[Path]:
        """An empty folder for a block."""
        with TemporaryDirectory(dir=self.folder, prefix="context-") as folder:
            yield Path(folder)

    def _build(self, image: str, context: Path, file: Path, *words: str) -> None:
        common = ("bud", "--isolation=chroot", "--pull-never", "--layers", "--format=docker")
        self._buildah(*common, "--tag", image, "--file", str(file), *words, str(context))

    def _command(self) -> list[str]:
        runtime = self.folder / "run"
        return ["buildah", "--storage-driver=overlay", f"--root={self.store}", f"--runroot={runtime}"]

    def _buildah(self, *words: str) -> str:
        return _run(*self._command(), *words)


def _copy(file: Path, context: Path) -> None:
    shutil.copy(file, context / file.name)


def _debian_root(context: Path) -> None:
    packages = f"--include={','.join(PACKAGES)}"
    _run("mmdebstrap", "--variant=minbase", packages, *SLIM, "bookworm", str(context / "root.tar"))


def _wheels(context: Path) -> None:
    """What Hydra runs with, at the versions of the lock file."""
    lock = (ROOT / "requirements.lock").read_text()
    constraints = context / "constraints.txt"
    constraints.write_text("\n".join(re.findall(r"^([a-z0-9._-]+==[^ ;\\]+)", lock, re.MULTILINE)))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(context / "wheels")]
    _run(*pip, "--constraint", str(constraints), f"{ROOT}[k8s]", "setuptools", "wheel")


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


def _sources() -> list[str]:
    """What the image is made of, each file with its digest."""
    files = [file for source in SOURCES for file in _files(ROOT / source)]
    return [f"{file.relative_to(ROOT)} {_digest(file)}" for file in files]


def _short(key: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]


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
