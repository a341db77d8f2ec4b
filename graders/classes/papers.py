"""A student's ANSWERS.md, read with care.

It may be a link to anywhere, a pipe, a folder, of any size and in any encoding. Only an ordinary
file is opened, only its beginning is read, and whatever else it is is said in one sentence.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from graders.classes.archives import folded, shown
from graders.harness.answers import MOST
from graders.harness.ordinary import NotOrdinary, beginning

NAME = "ANSWERS.md"
MISSING = f"There is no {NAME}."
MOST_ENTRIES = 1000  # of a folder, looked through for a file of another name


@dataclass(frozen=True)
class Paper:
    """A file as it was read; without text the remarks say why."""

    text: str = ""
    remarks: tuple[str, ...] = ()


def read(folder: Path) -> Paper:
    """The ANSWERS.md of a student's folder. No link is followed, and nothing but a file opened."""
    try:
        name, remarks = _find(folder)
        if not name:
            return Paper(remarks=remarks)
        paper = _read_file(folder / name)
    except OSError as error:
        return Paper(remarks=(f"{NAME} cannot be read: {error.strerror}.",))
    return Paper(paper.text, (*remarks, *paper.remarks))


def read_reference(path: Path) -> Paper:
    """The reference answers; without text if they are not there."""
    try:
        return _read_file(path)
    except OSError:
        return Paper()


def keep(folder: Path, to: Path) -> str:
    """Copy what `read` would read into the folder `to`, as ANSWERS.md, for when `folder` has gone.

    What was there is removed. Returns what is to be said, in one sentence: why there is nothing,
    or that the file has another name; "" if all is as it should be. Raises OSError if it cannot be
    written.
    """
    kept = to / NAME
    kept.unlink(missing_ok=True)
    try:
        name, remarks = _find(folder)
        if not name:
            return remarks[0]
        data = _beginning(folder / name)
    except OSError as error:
        return f"{NAME} cannot be read: {error.strerror}."
    if isinstance(data, str):
        return data
    to.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(data)
    return "".join(remarks)


def _find(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The name of a folder's ANSWERS.md, also where it differs in case or by an ending."""
    if os.path.lexists(folder / NAME):
        return NAME, ()
    names = []
    with os.scandir(folder) as entries:
        for entry, _ in zip(entries, range(MOST_ENTRIES), strict=False):
            if folded(entry.name).startswith(("answers", "answer.")):
                names.append(entry.name)
    names.sort()
    for wanted in ("answers.md", "answers.md.txt", "answers.txt", "answers.markdown", "answers"):
        for name in names:
            if folded(name) == wanted:
                return name, (f"There is no {NAME}; “{shown(name, 80)}” was read.",)
    told = f" There is “{shown(names[0], 80)}”, which is not read." if names else ""
    return "", (f"{MISSING}{told}",)


def _read_file(path: Path) -> Paper:
    """The text of an ordinary file, at most MOST bytes of it. Raises OSError."""
    data = _beginning(path)
    if isinstance(data, str):
        return Paper(remarks=(data,))
    remarks = []
    if len(data) > MOST:
        remarks.append(f"{NAME} is longer than {MOST // 1024} kB; the rest is not shown here.")
        data = data[:MOST]
    text, encoding = decoded(data)
    if _is_binary(data, text):
        return Paper(remarks=(f"{NAME} is not text; look at it by hand.",))
    if encoding != "UTF-8":
        remarks.append(f"{NAME} is not UTF-8; it was read as {encoding}.")
    if not text.strip():
        remarks.append(f"{NAME} is empty.")
    return Paper(text, tuple(remarks))


def _beginning(path: Path) -> bytes | str:
    """The first MOST bytes of an ordinary file and one more; or why it is none. Raises OSError."""
    try:
        return beginning(path, MOST + 1, follow_links=False)
    except NotOrdinary as error:
        return _not_a_file(error.mode)


def _not_a_file(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return f"{NAME} is a link, which is not followed."
    if stat.S_ISDIR(mode):
        return f"{NAME} is a folder."
    return f"{NAME} is no file but a pipe, a socket or a device."


def decoded(data: bytes) -> tuple[str, str]:
    """Text in one of the encodings that editors write, and which; newlines are all the same."""
    encoding, codec = "Windows-1252", "cp1252"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding, codec = "UTF-16", "utf-16"
    elif data[1:2000:2].count(0) > 0.4 * len(data[1:2000:2]):
        encoding, codec = "UTF-16", "utf-16-le"
    elif data[0:2000:2].count(0) > 0.4 * len(data[0:2000:2]):
        encoding, codec = "UTF-16", "utf-16-be"
    else:
        for end in range(4):  # the last character may have been cut in two
            with contextlib.suppress(UnicodeDecodeError):
                text = data[: len(data) - end].decode("utf-8-sig")
                encoding, codec = "UTF-8", ""
                break
    if codec:
        text = data.decode(codec, errors="replace").removeprefix("\ufeff")
    return re.sub(r"\r\n?", "\n", text), encoding


def _is_binary(data: bytes, text: str) -> bool:
    if data.startswith((b"PK\x03\x04", b"%PDF-")):
        return True
    start = text[:8192]
    odd = sum(1 for c in start if c == "\ufffd" or (c < " " and c not in "\t\n\f\b\x1b"))
    return odd > len(start) / 20
