"""Archives that come from strangers, opened into a fresh folder and nowhere else.

Zip, tar, and tar compressed by gzip, bzip2 or xz. What an archive says of itself (its name, its
sizes, its paths) is checked and never trusted. Nothing is extracted by a library: each file is
created here, exclusively, and each link is made after all files, so that no path can lead through
one. The rules for tar are those of Python's `data` filter and stricter; the filter itself is not
used, since early versions of Python 3.11 do not have it.

What is there twice is refused: tools differ in which of two equal names they take, so nobody could
say what was graded. Hard links, devices, pipes and sparse files are refused, too. A symbolic link
to the outside is left out with a remark, as `submission.copy_folder` does it.
"""

from __future__ import annotations

import bz2
import errno
import functools
import gzip
import io
import itertools
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from graders.harness.submission import LEFT_OUT, MAX_BYTES, MAX_FILES

CHUNK = 64 * 1024  # bytes that are read and written at a time
MAX_NAME = 255  # bytes of one name, in UTF-8: what Linux and macOS take
MAX_PATH = 700  # bytes of a whole path: macOS takes 1024, of which the folder above needs some
MAX_DEPTH = 64  # folders in folders
MAX_HEADER = 64 * 1024  # bytes of a tar's extended header, which is read into memory at once
MAX_GLOBAL = 100  # what a tar may say about all of its members
XZ_MEMORY = 256 * 1024 * 1024  # bytes that an xz file may ask for; `xz -9` needs 65 MB
MAX_REMARKS = 20
# A tar is read through to its end, also past what is left out: so much more than is kept.
READ_FACTOR = 4

TARS = ("tar", "gzip", "bzip2", "xz")
KINDS = ("zip", *TARS)
_OTHERS = {
    b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!\x1a\x07": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard",
    b"MSCF": "Cabinet", b"\x1f\x9d": "compress", b"LZIP": "lzip",
}  # fmt: skip

# Left by file managers; `._name` holds what macOS knows of `name`.
_JUNK = frozenset({"__macosx", ".ds_store", "thumbs.db", "desktop.ini", "icon\r"})
_UNSEEN = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error,
    ValueError, OverflowError, RecursionError, NotImplementedError, RuntimeError, LookupError,
)  # fmt: skip


class ArchiveError(Exception):
    """An archive that is not opened: a stable code, and one sentence that says why.

    Codes: archive-unreadable (damaged, cut off), archive-unsafe, archive-too-large,
    archive-encrypted, archive-unknown (no archive, or of a kind that is not opened here).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Limits:
    """How much one archive may hold, and what becomes of a bad entry.

    A lenient opening leaves a bad entry out with a remark: one student's file must not keep a whole
    class from being graded.
    """

    bytes: int = MAX_BYTES  # written to the disk
    files: int = MAX_FILES  # also of folders
    lenient: bool = False


SUBMISSION = Limits()
CLASS = Limits(bytes=4 << 30, files=400_000, lenient=True)


def unpack(archive: Path, to: Path, limits: Limits = SUBMISSION) -> list[str]:
    """Open an archive into the folder `to`, which must be new or empty; returns remarks.

    Raises ArchiveError; the folder is gone then. Raises OSError if the disk is full or the archive
    itself cannot be read.
    """
    archive, to = Path(archive), Path(to)
    name = shown(archive.name)
    kind = check(archive)
    to.mkdir(parents=True, exist_ok=True)
    if any(to.iterdir()):
        raise FileExistsError(errno.EEXIST, "not an empty folder", str(to))
    tree = _Tree(to, name, limits)
    try:
        if kind == "zip":
            _unzip(archive, tree)
        else:
            _untar(archive, kind, tree)
        return tree.finish()
    except BaseException as error:
        shutil.rmtree(to, ignore_errors=True)
        # A module's own complaint about its data has no errno; the system's has one.
        if isinstance(error, _DAMAGED) or (isinstance(error, OSError) and error.errno is None):
            raise ArchiveError(
                "archive-unreadable", f"{name} is damaged or cut off and cannot be opened."
            ) from None
        raise


def kind_of(path: Path) -> str:
    """What a file is by its first bytes: one of KINDS, another format's name, or "" if unknown."""
    with Path(path).open("rb") as file:
        head = file.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return "zip"
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):
        return "bzip2"
    if head[:6] == b"\xfd7zXZ\x00":
        return "xz"
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            return name
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        # A tar of nothing is zeros only; everything else has a header with a checksum.
        return "tar" if len(head) == 512 and not any(head) else ""
    return "tar"


def check(path: Path) -> str:
    """The kind of an archive that can be opened here, one of KINDS. Raises ArchiveError."""
    kind = kind_of(path)
    if kind in KINDS:
        return kind
    if kind:
        what = f"is a {kind} archive"
    elif Path(path).stat().st_size == 0:
        what = "is empty"
    else:
        what = "is no archive, whatever its name says"
    raise ArchiveError(
        "archive-unknown", f"{shown(Path(path).name)} {what}; zip and tar archives can be opened."
    )


def shown(text: str, width: int = 120) -> str:
    """A stranger's name as it can be shown: one line, no control or bidi characters, bounded."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFC", text))
    text = "".join("?" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    return text if len(text) <= width else text[: width - 1] + "…"


@functools.lru_cache(maxsize=4096)
def folded(name: str) -> str:
    """What two names have in common that are one file on macOS or Windows."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def is_junk(name: str) -> bool:
    """Whether a file manager has left this here, and no student."""
    return name.lower() in _JUNK or name.startswith("._")


class _Refused(Exception):
    """An entry that cannot be taken: the verb of the sentence that says why."""


class _Tree:
    """What is written into one fresh folder, within the bounds."""

    def __init__(self, root: Path, archive: str, limits: Limits) -> None:
        self.root, self.archive, self.limits = root, archive, limits
        self._spelt: dict[str, tuple[str, str]] = {}  # folded path -> (path, file or folder)
        self._links: list[tuple[str, str]] = []
        self._remarks: list[str] = []
        self._bytes = self._files = self._folders = 0

    def remark(self, text: str) -> None:
        self._remarks.append(text)

    def too_large(self, what: str) -> ArchiveError:
        return ArchiveError("archive-too-large", f"{self.archive} is too large: {what}.")

    def expect(self, size: int, files: int) -> None:
        """Refuse at once what says itself that it is too large."""
        if files > self.limits.files:
            raise self.too_large(f"it holds more than {self.limits.files:,} files")
        if size > self.limits.bytes:
            raise self.too_large(f"it holds more than {_much(self.limits.bytes)}")

    def attempt(self, name: str, action: Callable[[], object]) -> object:
        """Do something with an entry; an entry that cannot be taken is the archive's end.

        In a lenient opening it is left out, and None is returned.
        """
        damaged: tuple[type[Exception], ...] = _DAMAGED if self.limits.lenient else ()
        try:
            return action()
        except _Refused as error:
            reason = str(error)
        except damaged:
            reason = "is damaged"
        if not self.limits.lenient:
            raise ArchiveError(
                "archive-unsafe", f"{self.archive} is not opened: “{shown(name)}” {reason}."
            )
        self.remark(f"“{shown(name)}” was left out: it {reason}.")
        return None

    def parts(self, name: str, folder: bool) -> list[str]:
        """The names on the way to an entry; none if it is not wanted. Raises _Refused."""
        if "\0" in name:
            raise _Refused("has a zero byte in its name")
        name = name.replace("\\", "/")  # from Windows; where it is no separator it is no harm
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            raise _Refused("has an absolute path")
        names = [unicodedata.normalize("NFC", n) for n in name.split("/") if n not in ("", ".")]
        if ".." in names:
            raise _Refused("has a path with “..” in it")
        if any(is_junk(n) for n in names) or LEFT_OUT & set(names if folder else names[:-1]):
            return []
        if any(unicodedata.category(c) in ("Cc", "Cs") for n in names for c in n):
            raise _Refused("has a control character in its name")
        if any(len(n.encode()) > MAX_NAME for n in names) or len(name.encode()) > MAX_PATH:
            raise _Refused("has too long a name")
        if len(names) > MAX_DEPTH:
            raise _Refused(f"is more than {MAX_DEPTH} folders deep")
        return names

    def folder(self, parts: list[str]) -> None:
        """Make a folder and those above it."""
        for end in range(1, len(parts) + 1):
            if not self._claim(parts[:end], "folder"):
                continue
            self._folders += 1
            if self._folders > self.limits.files:
                raise self.too_large(f"it holds more than {self.limits.files:,} folders")
            os.mkdir(self.root.joinpath(*parts[:end]), 0o755)

    def file(self, parts: list[str], mode: int, chunks: Iterable[bytes]) -> None:
        """Write a file; of its mode only the owner's x counts."""
        self.folder(parts[:-1])
        self._claim(parts, "file")
        self._count()
        path = self.root.joinpath(*parts)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o600)
        except FileExistsError:
            raise _Refused("has the name of another file on this machine") from None
        try:
            with open(file, "wb") as out:
                for chunk in chunks:
                    self._bytes += len(chunk)
                    self.expect(self._bytes, 0)
                    out.write(chunk)
                os.fchmod(out.fileno(), 0o755 if mode & stat.S_IXUSR else 0o644)
        except _DAMAGED:
            path.unlink()
            raise

    def link(self, parts: list[str], target: str) -> None:
        """Note a symbolic link; it is made when all files are there."""
        self.folder(parts[:-1])
        self._claim(parts, "file")
        self._count()
        name = "/".join(parts)
        # “..” only in front: there it is the folder above, whatever else is a link. Elsewhere it
        # could follow another link, and mean something else than it seems to.
        ups = re.match(r"(?:\.\./+|\.\.$|\./+)*", target)
        front = ups.group() if ups else ""
        rest = target[len(front) :].split("/")
        inside = front.count("..") < len(parts) and ".." not in rest
        if not target or target[0] == "/" or not inside or "\\" in target or "\0" in target:
            self.remark(f"“{shown(name)}” was left out: it links to outside the folder.")
        else:
            self._links.append((name, target))

    def finish(self) -> list[str]:
        """Make the links; returns the remarks."""
        for name, target in self._links:
            try:
                os.symlink(unicodedata.normalize("NFC", target), self.root / name)
            except (OSError, ValueError):
                self.remark(f"“{shown(name)}” was left out: it is a link that cannot be made.")
        more = len(self._remarks) - MAX_REMARKS
        return [*self._remarks[:MAX_REMARKS], *([f"And {more} more remarks."] if more > 0 else [])]

    def _count(self) -> None:
        self._files += 1
        self.expect(0, self._files)

    def _claim(self, parts: list[str], kind: str) -> bool:
        """Take a path, or say that this folder is there already. Raises _Refused."""
        path = "/".join(parts)
        key = "/".join(folded(n) for n in parts)
        there = self._spelt.setdefault(key, new := (path, kind))
        if there is new:
            return True
        if there[0] != path:
            raise _Refused(f"is the same as “{shown(there[0])}” on some machines")
        if there[1] != kind:
            raise _Refused("is there both as a file and as a folder")
        if kind == "file":
            raise _Refused("is there twice")
        return False


# Zip


class _Capped(io.BufferedReader):
    """A file of which no more is read at once: a zip's directory is held in memory as a whole."""

    cap = 0

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.cap + 1 if size is None or size < 0 else size
        left = os.fstat(self.fileno()).st_size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self.cap:
            raise OverflowError
        return super().read(max(0, wanted))


def _unzip(archive: Path, tree: _Tree) -> None:
    with _Capped(io.FileIO(archive)) as file:
        file.cap = max(4 << 20, tree.limits.files * 200)
        try:
            opened = zipfile.ZipFile(file)
        except OverflowError:
            raise tree.too_large("it lists too many files") from None
        with opened:
            wanted = []
            for info in opened.infolist():
                name = _zip_name(info)
                folder = name.replace("\\", "/").endswith("/") or bool(info.external_attr & 0x10)
                parts = tree.attempt(name, lambda n=name, f=folder: tree.parts(n, f))
                if parts:
                    wanted.append((info, name, parts, folder))
            for info, name, _, _ in wanted:
                _can_read(info, name, tree)
            files = [info for info, _, _, folder in wanted if not folder]
            tree.expect(sum(info.file_size for info in files), len(files))
            for info, name, parts, folder in wanted:
                tree.attempt(
                    name, lambda i=info, p=parts, f=folder: _take_zipped(opened, i, p, f, tree)
                )


def _can_read(info: zipfile.ZipInfo, name: str, tree: _Tree) -> None:
    if info.flag_bits & 0x41:
        raise ArchiveError(
            "archive-encrypted", f"{tree.archive} is locked with a password and cannot be opened."
        )
    # Of bzip2 and LZMA, zipfile unpacks a whole block into memory, whatever its size.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(
            "archive-unknown",
            f"{tree.archive} is packed by an unusual method (“{shown(name)}”); pack it as a plain "
            "zip archive.",
        )


def _take_zipped(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, parts: list[str], folder: bool, tree: _Tree
) -> None:
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        with opened.open(info) as file:
            target = file.read(MAX_PATH + 1)
        tree.link(parts, target.decode("utf-8"))
    elif folder or kind == stat.S_IFDIR:
        tree.folder(parts)
    elif kind in (0, stat.S_IFREG):
        tree.file(parts, mode, _unzipped(opened, info))
    else:
        raise _Refused("is a device, a pipe or a socket")


def _unzipped(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    size = 0
    with opened.open(info) as file:
        while data := file.read(CHUNK):
            size += len(data)
            yield data
    if size != info.file_size:
        raise EOFError


def _zip_name(info: zipfile.ZipInfo) -> str:
    """An entry's name. Without the flag for UTF-8 it often is UTF-8 all the same."""
    name = info.orig_filename
    if info.flag_bits & 0x800:
        return name
    raw = name.encode("cp437")
    extra = info.extra
    while len(extra) >= 4:  # Info-ZIP's Unicode path: 0x7075, length, 1, CRC of the raw name
        tag, length = struct.unpack_from("<HH", extra)
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if tag == 0x7075 and len(body) > 5 and body[0] == 1:
            if struct.unpack_from("<L", body, 1)[0] == zlib.crc32(raw):
                return body[5:].decode("utf-8")
            break
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return name


# Tar


class _Header(tarfile.TarInfo):
    """A tar's header that refuses what would be read into memory without a bound.

    The methods with an underscore are tarfile's own; the tests show that they are still called.
    """

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):
            raise  # the end
        except tarfile.HeaderError:
            # Else tarfile would take a damaged header for the end.
            raise ValueError from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise _Sparse(self.name)
        extended = (
            tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )  # fmt: skip
        if self.type in extended and self.size > MAX_HEADER:
            raise ValueError
        # Each member gets a copy of all that was said for every member.
        if len(archive.pax_headers) > MAX_GLOBAL:
            raise ValueError
        return super()._proc_member(archive)

    def _sparse(self, *_: object) -> None:
        raise _Sparse(self.name)

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _sparse


class _Sparse(Exception):
    """A file with holes: a few bytes that stand for any number of zeros."""


class _Xz:
    """An xz file as a stream, with a bound on the memory that it may ask for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inner = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def read(self, size: int) -> bytes:
        while True:
            packed = b""
            if self._inner.eof:  # another stream may follow, after padding
                packed = self._inner.unused_data.lstrip(b"\0")
                while not packed:
                    packed = self._file.read(CHUNK)
                    if not packed:
                        return b""
                    packed = packed.lstrip(b"\0")
                self._inner = self._new()
            elif self._inner.needs_input:
                packed = self._file.read(CHUNK)
                if not packed:
                    raise EOFError
            if data := self._inner.decompress(packed, size):
                return data


class _Counted:
    """A stream that ends with an error once more has been read than a class could need."""

    def __init__(self, stream: BinaryIO | _Xz, tree: _Tree) -> None:
        self._stream, self._tree = stream, tree
        self._left = tree.limits.bytes * READ_FACTOR + tree.limits.files * 2048

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise self._tree.too_large(f"it holds more than {_much(self._tree.limits.bytes)}")
        return data


def _untar(archive: Path, kind: str, tree: _Tree) -> None:
    with archive.open("rb") as file:
        stream: BinaryIO | _Xz = file
        if kind == "gzip":
            stream = gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
        elif kind == "bzip2":
            stream = bz2.BZ2File(file)  # type: ignore[assignment]
        elif kind == "xz":
            stream = _Xz(file)
        first = _Peek(_Counted(stream, tree))
        if not first.is_tar():
            raise ArchiveError(
                "archive-unknown", f"{tree.archive} is {kind} data, but not of a tar archive."
            )
        try:
            _take_members(first, tree)
        except _Sparse as error:
            raise ArchiveError(
                "archive-unsafe",
                f"{tree.archive} is not opened: “{shown(str(error))}” is a sparse file.",
            ) from None


def _take_members(stream: _Peek, tree: _Tree) -> None:
    with tarfile.open(
        fileobj=stream, mode="r|", tarinfo=_Header, encoding="utf-8", bufsize=CHUNK  # type: ignore
    ) as opened:  # fmt: skip
        for count in itertools.count(1):
            if (member := opened.next()) is None:
                break
            opened.members.clear()  # it would keep them all
            if count > 2 * tree.limits.files:
                raise tree.too_large("it lists too many files")
            name = _tar_name(member.name)
            tree.attempt(name, lambda m=member, n=name: _take_tarred(opened, m, n, tree))


class _Peek:
    """A stream whose first block has been looked at."""

    def __init__(self, stream: _Counted) -> None:
        self._stream, self._head = stream, b""
        while len(self._head) < 512 and (data := stream.read(512 - len(self._head))):
            self._head += data

    def is_tar(self) -> bool:
        try:
            tarfile.TarInfo.frombuf(self._head, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:
            return True
        except (tarfile.TarError, ValueError):
            return False
        return True

    def read(self, size: int) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        return head or self._stream.read(size)


def _take_tarred(opened: tarfile.TarFile, member: tarfile.TarInfo, name: str, tree: _Tree) -> None:
    parts = tree.parts(name, member.isdir())
    if not parts:
        return
    if member.isdir():
        tree.folder(parts)
    elif member.issym():
        tree.link(parts, _tar_name(member.linkname))
    elif member.islnk():
        raise _Refused("is a hard link")
    elif member.isreg():
        tree.file(parts, member.mode, _untarred(opened, member))
    else:
        raise _Refused("is a device, a pipe or of an unknown kind")


def _untarred(opened: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file, left = opened.extractfile(member), member.size
    while file is not None and left > 0:
        data = file.read(min(CHUNK, left))
        if not data:
            raise EOFError
        left -= len(data)
        yield data


def _tar_name(name: str) -> str:
    """A name whose bytes are UTF-8, or else Latin-1, as older systems wrote it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


def _much(size: int) -> str:
    return f"{size >> 30} GB" if size >= 1 << 30 else f"{max(1, size >> 20)} MB"
