"""S1: keys and paths that would lead out of the root. S8: data on a node is nobody's to change."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.core import keys
from handlers.core.model import RAM, State
from tests.fakes_kv import FakeKV
from tests.faults.field import DATASET, Field
from tests.handlers.sync_node import PLACES, Node

HOSTILE = (
    "../x",
    "../../../../../../x",
    "a/../../x",
    "a/../x",
    "/abs",
    "//abs",
    "a//b",
    "a/",
    ".",
    "..",
    "./a",
    "a/./b",
    "nul\0byte",
    "new\nline",
    "tab\tbed",
    "del\x7f",
    "x" * 4096,
    "d/" * 2048 + "x",
    "half\udc80",
    "",
)
NOBODY = 65534
TEMPLATE = 'DATA_TEMPLATE = {"index": {"SourcePath": "s3://bucket/index/" + VERSION_PLACEHOLDER + "/"}}\n'


def outside(folder: Path, root: Path) -> dict[str, bytes]:
    """Everything in a folder but what is below the root, with what it holds."""
    found = [p for p in folder.rglob("*") if not p.is_relative_to(root) and p.name != "node.toml"]
    return {str(p): b"" if p.is_dir() else p.read_bytes() for p in found}


def test_s1_hostile_paths_are_refused_on_the_node(field: Field, tmp_path: Path) -> None:
    """Lists of files with hostile paths: each release fails, nothing is written outside the root."""
    (tmp_path / "node" / "sentinel").write_text("untouched")
    good = field.put_files(1, {"a": b"good"})
    bad = [
        field.put_files(2 + n, {"harmless": b"x", "b": b"b"}, paths={"harmless": path})
        for n, path in enumerate(path for path in HOSTILE if path.isprintable() or path.isascii())
    ]
    field.desire(1, good, *bad)
    before = outside(tmp_path, field.root)

    ran = field.sync()

    assert ran.code == 0, ran.said
    for release in bad:
        assert field.failed(release)
    assert field.complete(good)
    assert field.server.requests().keys() == {field.key(good, "a")}
    assert outside(tmp_path, field.root) == before
    assert not Path("/abs").exists()


@pytest.mark.parametrize("area", ["staging", "data", "releases", "file"])
def test_s1_a_link_planted_in_the_cache_is_not_followed(field: Field, tmp_path: Path, area: str) -> None:
    """Somebody plants a link where data would go: nothing is written through it."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    release = field.put_files(1, {"a": b"x" * 1000, "d/b": b"y"})
    field.desire(1, release)
    top = field.root / "volumes" / "disk"
    place = {
        "staging": top / "staging" / "prod",
        "data": top / "data" / "prod",
        "releases": field.root / "releases" / "prod",
        "file": top / "staging" / release.channel / release.version / DATASET / "d",
    }[area]
    place.parent.mkdir(parents=True)
    place.symlink_to(victim)

    ran = field.sync()

    assert ran.code in (0, 1), ran.said
    assert field.actual().releases[release].state is not State.SUCCESS
    assert [path.name for path in victim.rglob("*")] == ["precious"]
    assert (victim / "precious").read_text() == "precious"
    place.unlink()
    field.synced(release)


@pytest.mark.parametrize("key", [name for name in HOSTILE if name and "\udc80" not in name], ids=repr)
def test_s1_hostile_keys_are_refused_at_publish(field: Field, tmp_path: Path, key: str) -> None:
    """S3 lists a hostile key below the source: publish refuses the release and names what is wrong."""
    version = "2026-01-01T00-00-00"
    field.server.put({f"index/{version}/a": b"a", f"index/{version}/{key}": b"x"})
    template = tmp_path / "template.py"
    template.write_text(TEMPLATE)
    words = ("publish", str(template), "--channel", PLACES, "--version", version)

    done = subprocess.run(
        [sys.executable, "-m", "hydra_cli.main", *words],
        env=field.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )

    assert done.returncode in (1, 2, 7), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not field.kv.list(keys.channel(PLACES)).entries
    assert not field.kv.list("hydra/v1/releases/").entries


parts = st.sampled_from(
    ["..", ".", "", "a", "b", "\0", "\n", "a" * 300, "..a", "a..", "~", "\\..\\", "%2e%2e"]
)
paths = st.one_of(
    st.lists(parts, min_size=1, max_size=6).map("/".join), st.text(max_size=30), st.just("x/" * 3000)
)


@settings(max_examples=150)
@given(path=paths)
def test_s1_whatever_the_path_is_nothing_is_written_outside_the_root(path: str) -> None:
    """Any text as a path: taken as one file below the dataset, or refused; 0 writes outside the root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "deep" / "er" / "root"
        root.parent.mkdir(parents=True)
        node = Node(root, kv=FakeKV())
        release = node.publish(1, {"index": {"harmless": b"x"}}, paths={"harmless": path})
        node.desire(1, release)
        node.run()
        left = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_relative_to(root)}

        assert left == {"deep", "deep/er"}
        if node.folder(release).exists():
            data = node.data(release) / "index"
            assert (data / path).resolve().is_relative_to(data.resolve())


@pytest.mark.parametrize("umask", [0, 0o077], ids=oct)
def test_s8_published_data_is_read_only_and_not_writable_by_a_service(field: Field, umask: int) -> None:
    """Files are 0444 and folders 0555, whatever the umask: another user reads all and changes nothing."""
    files = {"a": b"a", "d/b": b"b", "d/e/c": b"", "big": os.urandom(3_000_000)}
    disk, ram = field.put_files(1, files), field.put_files(2, files, placement=RAM)
    field.desire(1, disk, ram)
    old_mask = os.umask(umask)
    try:
        field.synced(disk, ram)
    finally:
        os.umask(old_mask)

    for release in (disk, ram):
        for path in field.data(release).rglob("*"):
            info = path.stat()
            assert stat.S_IMODE(info.st_mode) == (0o555 if path.is_dir() else 0o444), path
            assert (info.st_uid, info.st_gid) == (os.geteuid(), os.getegid())
    assert attempts(field) == [], "somebody else could change the data"


def attempts(field: Field) -> list[str]:
    """What another user manages to change of all that is below the root."""
    for folder in (field.root, *field.root.parents):
        if stat.S_IMODE(folder.stat().st_mode) & 0o005 != 0o005:
            folder.chmod(0o755)  # the folders of pytest are closed to others, those of a machine are not
    code = """
import os, pathlib, sys
root = pathlib.Path(sys.argv[1])
for path in [root, *root.rglob("*")]:
    if path.is_symlink():
        continue
    try:
        if path.is_dir():
            (path / "planted").touch()
        else:
            path.open("r+b").close()
        print(path)
    except OSError:
        pass
assert any(p.read_bytes() for p in root.rglob("a") if p.is_file()), "it cannot even read"
"""
    words = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run([*words, str(field.root)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
