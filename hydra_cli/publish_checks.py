"""How the bytes of a release's files will be checked: the best that the data on S3 allows.

From the manifest object of a push, if there is one; else from what the object store knows of each object; or,
with `--digest`, from the bytes themselves, which are read once and described in a manifest object of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from handlers.adapters.checks import blake3_hasher
from handlers.adapters.parallel import at_once, patiently
from handlers.adapters.ports import Objects, Source, Uploads, read_object
from handlers.adapters.send import crc64nvme
from handlers.core import codec, integrity, pushed
from handlers.core.errors import HydraError, Integrity, SourceNotReady
from handlers.core.integrity import CHUNK_BYTES, Level
from handlers.core.model import Dataset, File, Pushed
from handlers.core.stored import OF_NOTHING, check_of, parts
from handlers.core.version import Version
from hydra_cli.context import Context
from hydra_cli.progress import Step, progress

HEADS = 32  # requests at once: 100,000 objects must stay bearable
READS = 8


class Found(Struct, frozen=True):
    """A manifest object: where it is, the folder (a key) of its paths, its bytes, what it says."""

    place: Source
    folder: str
    raw: bytes
    doc: Pushed


def manifests(objects: Objects, source: Source, version: Version) -> Iterator[Found]:
    """The manifest objects beside and above a dataset's source, nearest first; raises `Integrity`."""
    for key, folder in pushed.places(source.key, version):
        if found := manifest_at(objects, replace(source, key=key)):
            yield Found(replace(source, key=key), folder, *found)


def manifest_at(objects: Objects, place: Source) -> tuple[bytes, Pushed] | None:
    """The manifest object that is at `place`; raises `Integrity` when something else is."""
    try:
        info = objects.head(place)
    except SourceNotReady:
        return None
    raw = read_object(objects, place, info)
    return raw, pushed.read(raw, str(place))


class Checker:
    """Finds the checks of the files of one publish; `digest`: read what no push has described."""

    def __init__(self, context: Context, objects: Objects, uploads: Uploads, *, digest: bool) -> None:
        self._context, self._objects, self._uploads, self._digest = context, objects, uploads, digest

    def checked(self, dataset: Dataset, files: Sequence[File]) -> tuple[Dataset, tuple[File, ...]]:
        """The dataset with its level, and its files with their checks.

        Raises `Integrity` when what was pushed is not what is there, `SourceNotReady` when it changes.
        """
        source = Source.parse(dataset.source)
        by_key = {source.object_of(file.path).key: file for file in files}
        try:
            digest, found = self._pushed(dataset, by_key)
        except Integrity as e:
            if not self._digest:
                raise Integrity(
                    f"{e}. Push it again as a new version, or let `hydra publish --digest` read what is there"
                ) from None
            digest, found = "", None
        if found is None:
            found = self._known(source, files)
            if self._digest:
                digest, found = self._described(dataset, found)
        level = integrity.weakest(file.check for file in found)
        return replace(dataset, integrity=str(level), pushed=digest), found

    def _pushed(self, dataset: Dataset, there: dict[str, File]) -> tuple[str, tuple[File, ...] | None]:
        """The digest of the manifest object, and the files as it describes them; None = it has none."""
        source = Source.parse(dataset.source)
        for found in manifests(self._objects, source, dataset.version):
            named = pushed.below(found.doc, found.folder, source.key)
            if not named:
                continue
            if wrong := pushed.differences(named, there):
                raise Integrity(f"{dataset.source} is not what {found.place} says: {pushed.shown(wrong)}")
            files = [
                replace(file, check=named[key].check, version_id=named[key].version_id)
                for key, file in there.items()
            ]
            _refuse_nonsense(found.place, files)
            return codec.digest(found.raw), tuple(files)
        return "", None

    def _known(self, source: Source, files: Sequence[File]) -> tuple[File, ...]:
        """The files with what the object store knows of each."""
        with progress(self._context.screen, f"checksums of {source}", len(files), "objects") as step:

            def one(file: File) -> File:
                known = self._of(source.object_of(file.path), file)
                step(1)
                return known

            return tuple(at_once(one, files, HEADS))

    def _of(self, source: Source, file: File) -> File:
        if not file.size:
            return replace(file, check=OF_NOTHING)
        stored = self._uploads.stored(source)
        if (stored.size, stored.etag) != (file.size, file.etag):
            raise SourceNotReady(
                f"{source} was replaced while it was looked at: wait until its upload is over"
            )
        count = parts(stored)
        first = self._uploads.part(source, 1) if count else 0
        last = self._uploads.part(source, count) if count > 1 else first
        return replace(file, check=check_of(stored, first, last), version_id=stored.version_id)

    def _described(self, dataset: Dataset, files: Sequence[File]) -> tuple[str, tuple[File, ...]]:
        """Read all bytes, leave a manifest object beside them; its digest, and the files with theirs.

        Stores that cannot be written to by `hydra push` get no such object: the release has the digests.
        """
        source = Source.parse(dataset.source)
        with progress(self._context.screen, f"read {source}", sum(file.size for file in files)) as step:
            done = tuple(self._read(source, files, step))
        if source.scheme != "s3":
            return "", done  # the release alone has the digests: nothing is written to other stores
        key, folder = next(pushed.places(source.key, dataset.version))
        rows = tuple(replace(f, path=source.object_of(f.path).key.removeprefix(folder)) for f in done)
        doc = Pushed(files=rows, who=self._context.who, when=self._context.stamp())
        raw = pushed.seal(doc)
        self._uploads.write(replace(source, key=key), raw, crc64nvme(raw))
        return codec.digest(raw), done

    def _read(self, source: Source, files: Sequence[File], step: Step) -> Iterator[File]:
        """The files with the digests of their chunks."""
        spans = [
            (file, start, min(CHUNK_BYTES, file.size - start))
            for file in files
            for start in range(0, file.size, CHUNK_BYTES)
        ]

        def one(span: tuple[File, int, int]) -> bytes:
            digest = patiently(lambda: self._chunk(source.object_of(span[0].path), *span))
            step(span[2])
            return digest

        digests = iter(at_once(one, spans, READS))
        for file in files:
            chunks = [next(digests) for _ in range(0, file.size, CHUNK_BYTES)]
            yield replace(file, check=integrity.blake3_check(chunks) if chunks else OF_NOTHING)

    def _chunk(self, source: Source, file: File, start: int, length: int) -> bytes:
        hasher = blake3_hasher()
        for piece in self._objects.read_range(source, file.etag, start, length, file.version_id):
            hasher.update(piece)
        return bytes(hasher.digest())


def _refuse_nonsense(place: Source, files: Iterable[File]) -> None:
    """Raise `Integrity` where the manifest object has no digest of a file, or one that cannot be of it."""
    for file in files:
        if integrity.level_of(file.check) is not Level.DIGEST:
            raise Integrity(f"{place}: has no digest of {file.path}")
        try:
            integrity.parse(file.check, file.size)
        except HydraError as e:
            raise Integrity(f"{place}: {file.path}: {e}") from None
