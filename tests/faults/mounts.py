"""File systems of their own for tests: small ones in memory, and a disk whose power can be cut.

They need the right to mount, as the superuser has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

MIB = 1024**2
# EXT4_IOC_SHUTDOWN: what is neither on the disk nor in the journal there is lost, and whatever is done
# afterwards is an I/O error. xfstests cut the power in the same way (its src/godown.c)
_SHUTDOWN, _NO_FLUSH = 0x8004587D, 2


@contextlib.contextmanager
def tmpfs(path: Path, size: str, inodes: int = 0) -> Iterator[Path]:
    """A file system in memory on the folder `path`; `size` as mount takes it, inodes 0 = no limit."""
    path.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=0755", "hydra-faults", str(path))
    try:
        yield path
    finally:
        unmount(path)


@contextlib.contextmanager
def sparse(image: Path, path: Path, size: int) -> Iterator[Path]:
    """A disk that says that it has `size` bytes; only what is written to it is taken from the real one."""
    with image.open("wb") as file:
        file.truncate(size)
    few = ("-T", "largefile4", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard")
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", *few, str(image)], check=True)
    path.mkdir(parents=True, exist_ok=True)
    _mount("-o", "loop", str(image), str(path))
    try:
        yield path
    finally:
        unmount(path)
        image.unlink()


def remount(path: Path, option: str) -> None:
    """Change an option of a mount: `ro`, `rw`, `size=…`."""
    _mount("-o", f"remount,{option}", str(path))


class Disk:
    """An ext4 disk in a file. Metadata may become durable before the data that it describes.

    `data=writeback` and `noauto_da_alloc` take away what ext4 does out of kindness for programs that forget
    an fsync: after a cut such files are empty or full of zeros.
    """

    def __init__(self, image: Path, path: Path, size: int = 512 * MIB) -> None:
        self.image, self.path = image, path
        with image.open("wb") as file:
            file.truncate(size)
        options = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, str(image)], check=True)
        path.mkdir(parents=True, exist_ok=True)

    def mount(self) -> None:
        """Mount it; after a cut the journal is replayed."""
        _mount("-o", "loop,data=writeback,noauto_da_alloc,commit=300", str(self.image), str(self.path))

    def cut(self) -> None:
        """Cut the power: nothing that was not made durable survives. Mounted still, all access fails."""
        cut_power(self.path)

    def unmount(self) -> None:
        unmount(self.path)

    def check(self) -> None:
        """The file system itself is whole; raises CalledProcessError."""
        subprocess.run(["e2fsck", "-f", "-n", str(self.image)], check=True, capture_output=True)


def cut_power(path: Path) -> None:
    """Cut the power of the disk that is mounted on `path`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
    finally:
        os.close(fd)


@contextlib.contextmanager
def disk(image: Path, path: Path, size: int = 512 * MIB) -> Iterator[Disk]:
    """A mounted disk."""
    made = Disk(image, path, size)
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


def unmount(path: Path) -> None:
    """Unmount if it is mounted, also while somebody still has a file open there."""
    if path.is_mount():
        subprocess.run(["umount", "-n", str(path)], capture_output=True)
    if path.is_mount():
        subprocess.run(["umount", "-n", "-l", str(path)], check=True)


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", "-n", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"the tests of full and failing disks must be allowed to mount: {done.stderr.strip()}"
        )


def copy(image: Path, target: Path) -> None:
    """Copy the file of a disk, holes as holes."""
    subprocess.run(["cp", "--sparse=always", str(image), str(target)], check=True)
