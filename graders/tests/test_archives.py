"""Archives that mean harm, or were only made on another system: what is opened, and what is not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import time
import tracemalloc
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from graders.classes import archives
from graders.classes.archives import CLASS, ArchiveError, Limits, kind_of, shown, unpack

SMALL = Limits(bytes=1 << 20, files=100)
LENIENT = Limits(bytes=1 << 20, files=100, lenient=True)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "fresh" / "here"


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], **how: int) -> Path:
    with zipfile.ZipFile(path, "w", **how) as archive:  # type: ignore[arg-type]
        for name, data in entries:
            archive.writestr(name, data)
    return path


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **more: int
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for field, value in more.items():
        setattr(info, field, value)
    return info


def tarred(path: Path, *members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for one in members:
            if isinstance(one, tuple):
                archive.addfile(member(one[0], size=len(one[1])), io.BytesIO(one[1]))
            else:
                archive.addfile(one, io.BytesIO(bytes(one.size)) if one.isreg() else None)
    return path


def refused(path: Path, to: Path, limits: Limits = SMALL) -> ArchiveError:
    """What was said; nothing is left, inside or outside."""
    before = sorted(p for p in to.parent.parent.rglob("*") if to.parent not in p.parents)
    with pytest.raises(ArchiveError) as caught:
        unpack(path, to, limits)
    assert not to.exists()
    after = sorted(p for p in to.parent.parent.rglob("*") if to.parent not in p.parents)
    assert set(after) - set(before) <= {to.parent}
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert path.name in message
    return caught.value


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


CONTENT = {"lab/Procfile": b"worker: x\n", "lab/a b/M\u00fcller \u0645.py": b"1", "e": b""}


class TestWhatIsOpened:
    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_tars(self, tmp_path: Path, to: Path, mode: str, form: int) -> None:
        path = tmp_path / "wrong name.zip"  # its content counts
        with tarfile.open(path, mode, format=form) as archive:
            for name, data in CONTENT.items():
                archive.addfile(member("./" + name, size=len(data)), io.BytesIO(data))
        assert unpack(path, to) == []
        assert files(to) == CONTENT

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_zip(self, tmp_path: Path, to: Path, method: int) -> None:
        path = zipped(tmp_path / "x.tar.gz", *CONTENT.items(), compression=method)
        assert unpack(path, to) == []
        assert files(to) == CONTENT

    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_long_names_and_empty_folders(self, tmp_path: Path, to: Path, form: int) -> None:
        name = "/".join(["f" * 90] * 4)
        with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
            archive.addfile(member(name + "/empty", tarfile.DIRTYPE))
        unpack(tmp_path / "x.tar", to)
        assert (to / name / "empty").is_dir()

    def test_an_xz_file_of_several_streams(self, tmp_path: Path, to: Path) -> None:
        whole = tarred(tmp_path / "x.tar", ("a", b"1" * 5000)).read_bytes()
        parts = lzma.compress(whole[:3000]) + bytes(8) + lzma.compress(whole[3000:]) + bytes(4)
        (tmp_path / "x.xz").write_bytes(parts)
        unpack(tmp_path / "x.xz", to)
        assert files(to) == {"a": b"1" * 5000}

    def test_modes_are_tame(self, tmp_path: Path, to: Path) -> None:
        tarred(
            tmp_path / "x.tar",
            member("d", tarfile.DIRTYPE, mode=0o000), member("d/locked", mode=0o000),
            member("d/run", mode=0o7755), member("open", mode=0o666),
        )  # fmt: skip
        unpack(tmp_path / "x.tar", to)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in to.rglob("*") if p.is_file()}
        assert modes == {"locked": 0o644, "run": 0o755, "open": 0o644}
        assert os.access(to / "d", os.R_OK | os.W_OK | os.X_OK)

    def test_modes_in_a_zip(self, tmp_path: Path, to: Path) -> None:
        zipped(tmp_path / "x.zip", (entry("run", 0o106777), b""), ("plain", b""))
        unpack(tmp_path / "x.zip", to)
        assert stat.S_IMODE((to / "run").stat().st_mode) == 0o755
        assert stat.S_IMODE((to / "plain").stat().st_mode) == 0o644

    def test_what_systems_and_tools_leave_behind_is_left_out(
        self, tmp_path: Path, to: Path
    ) -> None:
        names = (
            "__MACOSX/._a", "a", ".DS_Store", "d/Thumbs.db", "d/desktop.ini", "._a", "Icon\r",
            "d/.git/config", "d/__pycache__/x.pyc", ".venv/bin/python", "d/venv", ".gitignore",
        )  # fmt: skip
        kept = {"a": b"1", "d/venv": b"1", ".gitignore": b"1"}
        zipped(tmp_path / "x.zip", *((n, b"1") for n in names))
        assert unpack(tmp_path / "x.zip", to) == []
        assert files(to) == kept
        tarred(tmp_path / "x.tar", *((n, b"1") for n in names))
        assert unpack(tmp_path / "x.tar", to.with_name("tar")) == []
        assert files(to.with_name("tar")) == kept

    def test_what_is_left_out_counts_no_file(self, tmp_path: Path, to: Path) -> None:
        many = [(f".git/objects/{n}", b"1") for n in range(150)]
        unpack(zipped(tmp_path / "x.zip", *many, ("a", b"")), to, SMALL)
        assert list(files(to)) == ["a"]

    def test_an_archive_in_an_archive_stays_closed(self, tmp_path: Path, to: Path) -> None:
        inner = zipped(tmp_path / "inner.zip", ("../evil", b"1")).read_bytes()
        unpack(zipped(tmp_path / "x.zip", ("inner.zip", inner)), to)
        assert files(to) == {"inner.zip": inner}

    @pytest.mark.parametrize("name", ["x.zip", "x.tar"])
    def test_empty_archives(self, tmp_path: Path, to: Path, name: str) -> None:
        path = tmp_path / name
        zipped(path) if name == "x.zip" else tarred(path)
        assert unpack(path, to) == []
        assert list(to.iterdir()) == []

    def test_a_folder_with_something_in_it_is_not_touched(self, tmp_path: Path, to: Path) -> None:
        to.mkdir(parents=True)
        (to / "mine").write_text("x")
        with pytest.raises(FileExistsError):
            unpack(zipped(tmp_path / "x.zip", ("a", b"")), to)
        assert list(files(to)) == ["mine"]


HEBREW_ARABIC = "\u05d3\u05e0\u05d4 \u0645\u0631\u064a\u0645.py"


class TestNames:
    def raw_zip(self, path: Path, raw: bytes, flag: int = 0, extra: bytes = b"") -> Path:
        """A zip whose one entry has these bytes as its name."""
        info = zipfile.ZipInfo("n" * len(raw))
        info.extra = extra
        data = zipped(path, (info, b"1")).read_bytes().replace(b"n" * len(raw), raw)
        at = data.rindex(b"PK\x01\x02")
        both = bytearray(data)
        struct.pack_into("<H", both, at + 8, flag)
        struct.pack_into("<H", both, 6, flag)
        path.write_bytes(both)
        return path

    @pytest.mark.parametrize(
        ("raw", "flag", "name"),
        [
            ("M\u00fcller.py".encode("cp437"), 0, "M\u00fcller.py"),
            ("M\u00fcller.py".encode(), 0, "M\u00fcller.py"),
            ("M\u00fcller.py".encode(), 0x800, "M\u00fcller.py"),
            (HEBREW_ARABIC.encode(), 0, HEBREW_ARABIC),
            ("\U0001f600.py".encode(), 0x800, "\U0001f600.py"),
            (unicodedata.normalize("NFD", "M\u00fcller.py").encode(), 0, "M\u00fcller.py"),
        ],
    )  # fmt: skip
    def test_bytes_of_a_zip(
        self, tmp_path: Path, to: Path, raw: bytes, flag: int, name: str
    ) -> None:
        unpack(self.raw_zip(tmp_path / "x.zip", raw, flag), to)
        assert os.listdir(to) == [name]

    def test_unicode_path_of_info_zip(self, tmp_path: Path, to: Path) -> None:
        raw, real = b"M?ller.py", "M\u0142ler.py".encode()
        body = b"\x01" + struct.pack("<L", zlib.crc32(raw)) + real
        extra = struct.pack("<HH", 0x7075, len(body)) + body
        unpack(self.raw_zip(tmp_path / "x.zip", raw, 0, extra), to)
        assert os.listdir(to) == ["M\u0142ler.py"]

    def test_unicode_path_that_leads_out(self, tmp_path: Path, to: Path) -> None:
        raw, real = b"harmless", b"../evil"
        body = b"\x01" + struct.pack("<L", zlib.crc32(raw)) + real
        extra = struct.pack("<HH", 0x7075, len(body)) + body
        # The name that is used is the one that is checked; which that is, is Python's affair too.
        path = self.raw_zip(tmp_path / "x.zip", raw, 0, extra)
        assert refused(path, to).code == "archive-unsafe"

    def test_a_tar_in_latin_1(self, tmp_path: Path, to: Path) -> None:
        with tarfile.open(
            tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1"
        ) as archive:
            archive.addfile(member("M\u00fcller.py"))
        unpack(tmp_path / "x.tar", to)
        assert os.listdir(to) == ["M\u00fcller.py"]

    def test_a_zip_of_windows(self, tmp_path: Path, to: Path) -> None:
        unpack(zipped(tmp_path / "x.zip", ("lab\\", b""), ("lab\\src\\a.py", b"1")), to)
        assert files(to) == {"lab/src/a.py": b"1"}

    def test_shown(self) -> None:
        assert shown("a\u202egnp.\u2066exe\u2069\x1b[31m\n\udc80") == "agnp.exe?[31m??"
        assert shown("Mu\u0308ller \u0645 \U0001f469\u200d\U0001f4bb") == (
            "M\u00fcller \u0645 \U0001f469\u200d\U0001f4bb"
        )
        assert len(shown("x" * 1000)) == 120


HOSTILE_NAMES = [
    "../evil", "a/../../evil", "/evil", "//server/share", "\\evil", "..\\evil", "a\\..\\..\\evil",
    "C:\\evil", "c:evil", "a/..", "..", "a\x1b[31m", "a\nb", "n" * 256, "\u00fc" * 128,
    "/".join(["d" * 100] * 8), "/".join("d" * 65),
]  # fmt: skip


class TestUnsafe:
    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_names(self, tmp_path: Path, to: Path, name: str) -> None:
        path = zipped(tmp_path / "x.zip", ("good", b"1"), (name, b"1"))
        assert refused(path, to).code == "archive-unsafe"
        path = tarred(tmp_path / "x.tar", ("good", b"1"), (name, b"1"))
        assert refused(path, to).code == "archive-unsafe"
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE):
            tarred(tmp_path / "x.tar", member(name, kind, "good"))
            assert refused(tmp_path / "x.tar", to).code == "archive-unsafe"

    def test_a_zero_byte_in_a_name(self, tmp_path: Path, to: Path) -> None:
        path = zipped(tmp_path / "x.zip", ("goodXevil", b"1"))
        path.write_bytes(path.read_bytes().replace(b"goodXevil", b"good\0evil"))
        assert refused(path, to).code == "archive-unsafe"

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("a", "a"), ("a", "A"), ("M\u00fcller", "Mu\u0308ller"), ("stra\u00dfe", "STRASSE"),
            ("src/a", "SRC/b"), ("a", "a/b"), ("a/b", "a"), ("a", "./a"), ("d/x", "d//x"),
            ("\u00c9/a", "e\u0301/b"), ("d\\x", "d/x"),
        ],
    )  # fmt: skip
    def test_names_that_collide(self, tmp_path: Path, to: Path, first: str, second: str) -> None:
        tarred(tmp_path / "x.tar", (first, b"1"), (second, b"2"))
        assert refused(tmp_path / "x.tar", to).code == "archive-unsafe"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile's own, on names that are there already
            zipped(tmp_path / "x.zip", (first, b"1"), (second, b"2"))
        assert refused(tmp_path / "x.zip", to).code == "archive-unsafe"

    def test_a_folder_may_be_there_twice(self, tmp_path: Path, to: Path) -> None:
        tarred(tmp_path / "x.tar", ("d/a", b"1"), member("d", tarfile.DIRTYPE), ("d/b", b"2"))
        assert unpack(tmp_path / "x.tar", to) == []

    @pytest.mark.parametrize(
        "kind",
        [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V", b"D"],
    )
    def test_kinds_of_a_tar(self, tmp_path: Path, to: Path, kind: bytes) -> None:
        tarred(tmp_path / "x.tar", ("good", b"1"))
        with tarfile.open(tmp_path / "x.tar", "a") as archive:
            archive.addfile(member("odd", kind, "good"))
        error = refused(tmp_path / "x.tar", to)
        assert error.code == "archive-unsafe"
        assert ("hard link" in error.message) == (kind == tarfile.LNKTYPE)

    @pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
    def test_kinds_of_a_zip(self, tmp_path: Path, to: Path, kind: int) -> None:
        zipped(tmp_path / "x.zip", (entry("odd", kind | 0o644), b""))
        assert refused(tmp_path / "x.zip", to).code == "archive-unsafe"

    def test_one_bad_entry_is_not_the_end_of_a_class(self, tmp_path: Path, to: Path) -> None:
        bad = [entry("odd", stat.S_IFIFO | 0o644), *HOSTILE_NAMES]
        zipped(tmp_path / "x.zip", ("a", b"1"), *((n, b"1") for n in bad), ("A", b"2"), ("b", b"3"))
        remarks = unpack(tmp_path / "x.zip", to, LENIENT)
        assert files(to) == {"a": b"1", "b": b"3"}
        assert len(remarks) == len(bad) + 1
        assert all("was left out: it" in remark and "\x1b" not in remark for remark in remarks)

    def test_a_damaged_entry_is_not_the_end_of_a_class(self, tmp_path: Path, to: Path) -> None:
        path = zipped(tmp_path / "x.zip", ("a", b"12345"), ("b", b"67890"))
        path.write_bytes(path.read_bytes().replace(b"12345", b"12x45"))
        assert unpack(path, to, LENIENT) == ["“a” was left out: it is damaged."]
        assert files(to) == {"b": b"67890"}
        assert refused(path, to.with_name("again")).code == "archive-unreadable"


class TestLinks:
    def both(self, tmp_path: Path, *links: tuple[str, str]) -> list[tuple[Path, list[str]]]:
        zipped(
            tmp_path / "x.zip", ("a/b/c/real", b"1"),
            *((entry(n, stat.S_IFLNK | 0o777), t.encode()) for n, t in links),
        )  # fmt: skip
        tarred(
            tmp_path / "x.tar", *(member(n, tarfile.SYMTYPE, t) for n, t in links),
            ("a/b/c/real", b"1"),
        )  # fmt: skip
        out = []
        for name in ("x.zip", "x.tar"):
            to = tmp_path / f"to {name}"
            out.append((to, unpack(tmp_path / name, to, SMALL)))
            for path in to.rglob("*"):
                assert Path(os.path.realpath(path)).is_relative_to(to)
        return out

    def test_inside(self, tmp_path: Path) -> None:
        links = (("a/l", "b/c/real"), ("a/b/up", "../l"), ("a/dir", "./b"), ("dangling", "none"))
        for to, remarks in self.both(tmp_path, *links):
            assert remarks == []
            assert (to / "a/b/up").read_bytes() == b"1"
            assert (to / "a/dir/c/real").read_bytes() == b"1"
            assert (to / "dangling").is_symlink()

    @pytest.mark.parametrize(
        ("name", "target"),
        [
            ("l", "/etc/passwd"), ("l", ".."), ("l", "../x"), ("a/l", "../../x"), ("l", "./../x"),
            ("l", "a/../../x"), ("a/l", "../..//x"), ("l", "..\\x"), ("l", "a/.."),
        ],
    )  # fmt: skip
    def test_to_the_outside(self, tmp_path: Path, name: str, target: str) -> None:
        for to, remarks in self.both(tmp_path, (name, target)):
            assert remarks == [f"“{name}” was left out: it links to outside the folder."]
            assert not (to / name).is_symlink()

    def test_through_another_link(self, tmp_path: Path) -> None:
        # By its words a/b/c/x; in truth two folders above the root's own.
        links = (("a/b/c/top", "../../.."), ("evil", "a/b/c/top/../x"))
        for to, remarks in self.both(tmp_path, *links):
            assert len(remarks) == 1
            assert not (to / "evil").is_symlink()

    @pytest.mark.parametrize("order", [1, -1])
    def test_nothing_is_written_through_a_link(self, tmp_path: Path, to: Path, order: int) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        pair = [member("d", tarfile.SYMTYPE, "../../outside"), ("d/evil", b"1")]
        tarred(tmp_path / "x.tar", *pair[::order])
        assert refused(tmp_path / "x.tar", to).code == "archive-unsafe"
        pair = [member("f", tarfile.SYMTYPE, "../../outside/f"), ("f", b"1")]
        tarred(tmp_path / "x.tar", *pair[::order])
        assert refused(tmp_path / "x.tar", to).code == "archive-unsafe"
        assert list(outside.iterdir()) == []

    def test_loops_do_no_harm(self, tmp_path: Path, to: Path) -> None:
        tarred(
            tmp_path / "x.tar", member("a", tarfile.SYMTYPE, "b"), member("b", tarfile.SYMTYPE, "a")
        )
        assert unpack(tmp_path / "x.tar", to) == []


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 9),
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=1),
}


class TestTooLarge:
    def written(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Sizes of the files when the folder is removed."""
        sizes: list[int] = []
        real = archives.shutil.rmtree

        def rmtree(path: Path, **how: bool) -> None:
            sizes.append(sum(p.stat().st_size for p in path.rglob("*") if p.is_file()))
            real(path, **how)

        monkeypatch.setattr(archives.shutil, "rmtree", rmtree)
        return sizes

    def test_zeros_in_a_zip(
        self, tmp_path: Path, to: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.zip"
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("zeros", "w") as out,
        ):
            for _ in range(64):
                out.write(bytes(1 << 20))
        whole = bytearray(path.read_bytes())
        sizes = self.written(monkeypatch)
        assert refused(path, to).code == "archive-too-large"
        assert sizes == [0]  # it says so itself
        # Now it lies: its lists say 100 bytes.
        at = whole.rindex(b"PK\x01\x02")
        struct.pack_into("<L", whole, at + 24, 100)
        path.write_bytes(whole)
        assert refused(path, to).code == "archive-unreadable"
        assert sizes[1] <= SMALL.bytes

    @pytest.mark.parametrize("packer", PACKERS)
    def test_a_gigabyte_of_zeros_in_a_tar(
        self, tmp_path: Path, to: Path, monkeypatch: pytest.MonkeyPatch, packer: str
    ) -> None:
        header = member("zeros", size=1 << 30).tobuf()
        block = PACKERS[packer](bytes(8 << 20))  # these formats can be put one after another
        path = tmp_path / "x.tar"
        path.write_bytes(PACKERS[packer](header) + block * 128 + PACKERS[packer](bytes(1024)))
        assert path.stat().st_size < 2 << 20
        sizes = self.written(monkeypatch)
        began = time.monotonic()
        tracemalloc.start()
        try:
            assert refused(path, to).code == "archive-too-large"
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()
        assert sizes[0] <= SMALL.bytes
        assert time.monotonic() - began < 10

    def test_zeros_that_would_be_left_out(self, tmp_path: Path, to: Path) -> None:
        header = member("__MACOSX/zeros", size=1 << 30).tobuf()
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(header) + gzip.compress(bytes(8 << 20)) * 128)
        assert refused(path, to).code == "archive-too-large"

    def test_the_sum_counts(self, tmp_path: Path, to: Path) -> None:
        many = [(f"f{n}", bytes(200_000)) for n in range(6)]
        assert refused(tarred(tmp_path / "x.tar", *many), to).code == "archive-too-large"
        assert refused(zipped(tmp_path / "x.zip", *many), to).code == "archive-too-large"
        unpack(tarred(tmp_path / "y.tar", *many[:5]), to, SMALL)

    def test_a_hundred_thousand_empty_files(self, tmp_path: Path, to: Path) -> None:
        path = tmp_path / "x.zip"
        local = b"PK\x03\x04" + bytes(22) + struct.pack("<HH", 6, 0)
        central = b"PK\x01\x02" + bytes(24) + struct.pack("<HHHHHLL", 6, 0, 0, 0, 0, 0, 0)
        names = [b"%06d" % n for n in range(100_000)]
        head = local + names[0]
        body = b"".join(central + name for name in names)
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(body), len(head), 0)
        path.write_bytes(head + body + end)
        began = time.monotonic()
        assert refused(path, to, archives.SUBMISSION).code == "archive-too-large"
        assert time.monotonic() - began < 10

    def test_a_list_that_fills_the_memory(self, tmp_path: Path, to: Path) -> None:
        path = tmp_path / "x.zip"
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 64 << 20, 0, 0)
        with path.open("wb") as file:
            file.write(b"PK\x03\x04")
            file.seek(64 << 20)  # a hole
            file.write(end)
        assert refused(path, to).code == "archive-too-large"

    def test_many_members_of_a_tar(self, tmp_path: Path, to: Path) -> None:
        tarred(tmp_path / "x.tar", *((f"f{n}", b"") for n in range(101)))
        assert refused(tmp_path / "x.tar", to).code == "archive-too-large"
        tarred(tmp_path / "x.tar", *(member(f"d{n}", tarfile.DIRTYPE) for n in range(101)))
        assert refused(tmp_path / "x.tar", to).code == "archive-too-large"
        tarred(tmp_path / "x.tar", *(member(f"l{n}", tarfile.SYMTYPE, "x") for n in range(101)))
        assert refused(tmp_path / "x.tar", to).code == "archive-too-large"
        tarred(tmp_path / "x.tar", *(member("d", tarfile.DIRTYPE) for n in range(201)))
        assert refused(tmp_path / "x.tar", to).code == "archive-too-large"

    def test_folders_in_folders(self, tmp_path: Path, to: Path) -> None:
        tarred(tmp_path / "x.tar", ("/".join("d" * 64), b"1"))
        assert unpack(tmp_path / "x.tar", to, SMALL) == []
        tarred(tmp_path / "y.tar", *((f"{n}/" * 60 + "x", b"") for n in range(2)))
        assert refused(tmp_path / "y.tar", to.with_name("y")).code == "archive-too-large"

    @pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
    def test_a_header_that_fills_the_memory(self, tmp_path: Path, to: Path, kind: bytes) -> None:
        header = member("x", kind, size=100 << 20).tobuf(tarfile.GNU_FORMAT)
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(header) + gzip.compress(bytes(10 << 20)) * 11)
        tracemalloc.start()
        try:
            assert refused(path, to, archives.SUBMISSION).code == "archive-unreadable"
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()

    def test_what_is_said_of_all_members_is_copied_for_each(
        self, tmp_path: Path, to: Path
    ) -> None:
        said = {f"k{n}": "1" for n in range(archives.MAX_GLOBAL)}
        for path, more in ((tmp_path / "x.tar", {}), (tmp_path / "y.tar", {"one": "more"})):
            headers = said | more
            with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=headers) as made:
                made.addfile(member("a", size=1), io.BytesIO(b"1"))
        assert unpack(tmp_path / "x.tar", to, SMALL) == []
        assert (to / "a").read_bytes() == b"1"
        error = refused(tmp_path / "y.tar", to.with_name("y"))
        assert error.code == "archive-unreadable"

    def test_headers_of_many_members_are_not_kept(self, tmp_path: Path, to: Path) -> None:
        path = tmp_path / "x.tar.gz"
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as made:
            for number in range(1000):
                info = member(f"f{number}")
                info.pax_headers = {"comment": "x" * 60_000}
                made.addfile(info)
        tracemalloc.start()
        try:
            unpack(path, to, archives.SUBMISSION)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()

    def test_headers_without_end(self, tmp_path: Path, to: Path) -> None:
        one = member("x", b"L", size=1).tobuf(tarfile.GNU_FORMAT) + b"n".ljust(512, b"\0")
        (tmp_path / "x.tar").write_bytes(one * 3000)
        assert refused(tmp_path / "x.tar", to).code == "archive-unreadable"

    def test_an_xz_file_that_asks_for_memory(self, tmp_path: Path, to: Path) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
        data = bytearray(lzma.compress(bytes(2048), filters=filters))
        at = data.index(b"\x21\x01", 12)  # the filter, one byte of properties: the dictionary
        data[at + 2] = 39  # 3 GB
        size = (data[12] + 1) * 4
        struct.pack_into("<L", data, 12 + size - 4, zlib.crc32(data[12 : 12 + size - 4]))
        (tmp_path / "x.xz").write_bytes(data)
        assert refused(tmp_path / "x.xz", to).code == "archive-unreadable"


class TestSparse:
    def gnu(self) -> bytes:
        header = bytearray(member("holes", size=512).tobuf(tarfile.GNU_FORMAT))
        header[156:157] = tarfile.GNUTYPE_SPARSE
        header[386:410] = b"%011o\0%011o\0" % (0, 512)
        header[483:495] = b"%011o\0" % (1 << 30)
        return self.summed(header) + bytes(512 + 1024)

    def pax(self, **headers: str) -> bytes:
        info = member("holes", size=512)
        info.pax_headers = headers
        return info.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n512\n".ljust(512, b"\0") + bytes(1024)

    @staticmethod
    def summed(header: bytearray) -> bytes:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header)

    @pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
    def test_are_refused(self, tmp_path: Path, to: Path, version: str) -> None:
        big = str(1 << 30)
        made = {
            "gnu": self.gnu(),
            "0.0": self.pax(**{
                "GNU.sparse.size": big, "GNU.sparse.numblocks": "1",
                "GNU.sparse.offset": "0", "GNU.sparse.numbytes": "512",
            }),
            "0.1": self.pax(**{"GNU.sparse.size": big, "GNU.sparse.map": "0,512"}),
            "1.0": self.pax(**{
                "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes",
                "GNU.sparse.realsize": big,
            }),
        }  # fmt: skip
        path = tmp_path / "x.tar"
        path.write_bytes(made[version])
        error = refused(path, to)
        assert error.code == "archive-unsafe"
        assert "sparse" in error.message
        # Also behind another file.
        path.write_bytes(member("a").tobuf() + made[version])
        assert refused(path, to).code == "archive-unsafe"


class TestUnreadable:
    def test_encrypted(self, tmp_path: Path, to: Path) -> None:
        path = zipped(tmp_path / "x.zip", ("a", b"1"))
        data = bytearray(path.read_bytes())
        struct.pack_into("<H", data, 6, 1)
        struct.pack_into("<H", data, data.rindex(b"PK\x01\x02") + 8, 1)
        path.write_bytes(data)
        assert refused(path, to).code == "archive-encrypted"

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_less_in_it_than_it_says(self, tmp_path: Path, to: Path, method: int) -> None:
        path = zipped(tmp_path / "x.zip", ("a", b"12345"), compression=method)
        data = bytearray(path.read_bytes())
        struct.pack_into("<L", data, data.rindex(b"PK\x01\x02") + 24, 5000)
        path.write_bytes(data)
        assert refused(path, to).code == "archive-unreadable"

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_unusual_methods(self, tmp_path: Path, to: Path, method: int) -> None:
        path = zipped(tmp_path / "x.zip", ("a", b"1"), compression=method)
        assert refused(path, to).code == "archive-unknown"

    @pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
    def test_cut_off_and_damaged_anywhere(self, tmp_path: Path, to: Path, name: str) -> None:
        """Each damage ends in an archive or in an ArchiveError, and never in anything else."""
        path = tmp_path / name
        noise = b"".join(struct.pack("<Q", n * n * 2654435761 % (1 << 61)) for n in range(300))
        if name == "x.zip":
            zipped(path, ("d/a", noise), ("b", b"2"), compression=zipfile.ZIP_DEFLATED)
        else:
            mode = f"w:{name[6:]}" if name[5:] else "w"
            tarred(path, ("d/a", noise), ("b", b"2"), mode=mode)
        whole = path.read_bytes()
        step = max(1, len(whole) // 60)
        codes = set()
        for at in range(0, len(whole), step):
            for damaged in (
                whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :],
            ):  # fmt: skip
                path.write_bytes(damaged)
                try:
                    unpack(path, to, SMALL)
                    archives.shutil.rmtree(to)
                except ArchiveError as error:
                    codes.add(error.code)
                    assert not to.exists()
        assert "archive-unreadable" in codes
        path.write_bytes(whole[: len(whole) * 2 // 3 if name != "x.tar" else 1000])
        assert refused(path, to).code == "archive-unreadable"

    def test_a_damaged_header_in_the_middle_is_not_the_end(self, tmp_path: Path, to: Path) -> None:
        path = tarred(tmp_path / "x.tar", ("a", b"1"), ("b", b"2"))
        data = bytearray(path.read_bytes())
        data[1024] ^= 1
        path.write_bytes(data)
        assert refused(path, to).code == "archive-unreadable"

    @pytest.mark.parametrize(
        ("name", "data", "words"),
        [
            ("x.zip", b"I have forgotten it", "is no archive"),
            ("x.zip", b"", "is empty"),
            ("x.zip", b"7z\xbc\xaf\x27\x1c....", "7-Zip"),
            ("x.zip", b"Rar!\x1a\x07\x01\x00", "RAR"),
            ("x.tar.gz", gzip.compress(b"no tar"), "but not of a tar"),
            ("x.tar.gz", gzip.compress(bytes(100)), "but not of a tar"),
            ("x.tar.xz", lzma.compress(b"n" * 600), "but not of a tar"),
        ],
    )
    def test_unknown(self, tmp_path: Path, to: Path, name: str, data: bytes, words: str) -> None:
        (tmp_path / name).write_bytes(data)
        error = refused(tmp_path / name, to)
        assert error.code == "archive-unknown"
        assert words in error.message

    def test_a_full_disk_is_not_the_students_fault(
        self, tmp_path: Path, to: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(archives.os, "fchmod", full)
        with pytest.raises(OSError, match="No space left"):
            unpack(zipped(tmp_path / "x.zip", ("a", b"1")), to)
        assert not to.exists()


def test_kinds(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"")
    assert kind_of(path) == ""
    tarred(path, ("a", b""))
    assert kind_of(path) == "tar"
    for mode, kind in (("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")):
        tarred(path, ("a", b""), mode=mode)
        assert kind_of(path) == kind
    assert CLASS.lenient
