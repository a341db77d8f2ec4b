"""Who has handed in what: the folders and archives of a class, one entry per student.

Four layouts are known by their names: Moodle's “download all submissions” (one folder per student,
or files side by side), Canvas's “download submissions”, Gradescope's export, and one folder or
archive per student. Any of them may lie in one archive. How the platforms name their files was read
in their sources (Moodle: mod/assign/classes/downloader.php; Canvas: lib/content_zipper.rb).

Nothing is graded here, and nobody gets lost: whoever has an entry in the download has one here, if
only with a problem that says why there is nothing to grade.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from graders.classes import archives
from graders.classes.archives import ArchiveError, folded, is_junk, shown
from graders.harness.submission import LEFT_OUT, PROCFILE, unused

MAX_ID = 80  # bytes of a student's id
MAX_SHOWN = 80  # characters of a student's name
MAX_IDS = 1000  # characters of what the platform calls a student, or all of a group
LEVELS = 4  # folders between a submission's top and its Procfile
METADATA = "submission_metadata.yml"

_ARCHIVE_NAME = re.compile(
    r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|xz|bz2|zst)|7z|rar|gz|xz|bz2|zst)$", re.IGNORECASE
)
# Zip archives that are documents or programs, whatever their first bytes say.
_DOCUMENT_NAME = re.compile(
    r"\.(docx|xlsx|pptx|od[tsp]|epub|jar|war|whl|apk|pages|numbers|key)$", re.IGNORECASE
)
_MOODLE = re.compile(
    r"(?P<name>.+?)(?:_(?P<number>\d+))?_assignsubmission_(?P<kind>[a-z]+)(?:_(?P<file>.*))?",
    re.DOTALL,
)
_CANVAS = re.compile(
    r"(?P<name>.+?)_(?:(?P<late>LATE)_)?(?P<number>\d+)_(?P<upload>\d+)_(?P<file>.+)", re.DOTALL
)
_CANVAS_ANONYMOUS = re.compile(
    r"(?:(?P<late>LATE)_)?(?P<name>anon_(?P<number>[A-Za-z0-9]+))_(?P<upload>\d+)_(?P<file>.+)",
    re.DOTALL,
)
_CANVAS_TEXT = re.compile(
    r"(?P<name>.+?)_(?:(?P<late>LATE)_)?(?P<number>\d+)_(?P<file>(?:text|link)\.html)", re.DOTALL
)
_GRADESCOPE = re.compile(r"submission_(?P<number>\d+)")
# `lab-1.zip` is how Canvas calls a second `lab.zip`, `lab (1).zip` how a browser does.
_VERSION = re.compile(r"(?P<stem>.+?)(?:-(?P<a>\d{1,3})| ?\((?P<b>\d{1,3})\))?(?P<end>(?:\.\w+)*)")


# What one student calls one of several labs: `lab03`, `Lab 3 (1)`.
_OF_A_LAB = re.compile(r"lab[ _-]?\d{1,2}(-\d+| ?\(\d+\))?", re.IGNORECASE)

TAKEN_FOR_ONE = (
    "All lies in “{}”, which was taken for one student's; if it is the class's, name it in DIR."
)
INSIDE = ".inside"  # where an archive is opened that lay in another one


@dataclass(frozen=True)
class Entry:
    """What one student, or one group, has handed in."""

    student: str  # unique in the class, and safe as a file's name
    name: str  # to be shown
    path: Path  # a folder or an archive; where files are loose, the folder they lie in
    late: bool | None = None  # None if the platform does not say
    problem: str = ""  # why there is nothing to grade, in one sentence
    remarks: tuple[str, ...] = ()
    loose: tuple[tuple[str, Path], ...] = ()  # files that were uploaded one by one
    id: str = ""  # what the platform calls the student: a number, or an address


@dataclass(frozen=True)
class _Upload:
    """One file or folder of a download, and whose it is."""

    path: Path
    name: str
    file: str  # as the student called it; "" for a folder
    number: str = ""  # the platform's for the student
    kind: str = "file"
    late: bool | None = None
    order: int = 0  # later uploads have higher ones
    id: str | None = None  # what the platform calls the student, if that is not the number


def find(
    source: Path, work: Path | None = None, lab: str = "", remarks: list[str] | None = None
) -> list[Entry]:
    """The submissions in a folder or an archive of a class, in the order of their ids.

    An archive is opened into a new folder in `work`, which has to live as long as the entries.
    `lab` (“03”) helps to choose where a student has handed in several. What belongs to no student
    is told in `remarks`. Raises ArchiveError (also with code submissions-missing).
    """
    said = remarks if remarks is not None else []
    source = Path(source)
    if not source.exists():
        raise ArchiveError("submissions-missing", f"There is no folder or archive {source}.")
    top = source
    if not source.is_dir():
        top = _opened(source, work, said)
    top = _inner(top, source, work, said)
    if (top / PROCFILE).is_file():  # one submission, and no class
        return _entries([_Upload(top, _stem(source.name), "")], lab)
    children = list(_children(top, said))
    uploads = _gradescope(top, children) or _named(children, said)
    return _entries(uploads, lab)


def prepare(entry: Entry, to: Path, lab: str = "", remarks: list[str] | None = None) -> Path:
    """The folder of an entry that is to be graded: the one with its Procfile.

    An archive is opened into `to`, which must be new or empty; loose files are copied there; a
    folder is taken where it is. Without a Procfile it is the topmost folder, so that the grading
    tells of it. Raises ArchiveError.
    """
    said = remarks if remarks is not None else []
    if entry.problem:
        raise ArchiveError("submission-unusable", entry.problem)
    top = Path(to)
    if entry.loose:
        top.mkdir(parents=True, exist_ok=True)
        for name, path in entry.loose:
            shutil.copyfile(path, top / name, follow_symlinks=False)
    elif entry.path.is_dir():
        top = entry.path
    else:
        said += archives.unpack(entry.path, top)
    found = _with_procfile(top, lab, said)
    if not os.path.lexists(found / PROCFILE) and (packed := _packed(top)):
        if len(packed) > 1:
            said.append(f"It holds {len(packed)} archives, of which none was opened.")
            return found
        try:
            said += archives.unpack(packed[0], Path(to) / INSIDE)
        except ArchiveError as error:
            said.append(error.message)
            return found
        said.append(f"“{shown(packed[0].name)}”, which lay in it, was opened.")
        found = _with_procfile(Path(to) / INSIDE, lab, said)
    return found


def _packed(top: Path) -> list[Path]:
    """The archives that lie in what was handed in."""
    return [path for folder in _candidates(top, lambda name: bool(_ARCHIVE_NAME.search(name)))
            for path in _children(folder) if path.is_file() and _ARCHIVE_NAME.search(path.name)]


# Ids


def student_id(name: str, number: str = "") -> str:
    """A name as a part of file names: letters and digits of any script, at most MAX_ID bytes."""
    name = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "._" else "-" for c in name)
    kept = re.sub(r"-{2,}", "-", kept).strip("-.")
    end = f"-{number}" if number else ""
    room = MAX_ID - len(end.encode())
    # Cut between characters: half a one is dropped.
    kept = kept.encode()[:room].decode(errors="ignore").rstrip("-.")
    return (kept or "student") + end


def _distinct(groups: list[list[_Upload]]) -> list[str]:
    """Ids that differ also where case does not: with the platform's number, or a count."""
    plain = [student_id(group[-1].name) for group in groups]
    often: dict[str, int] = {}
    for name in plain:
        often[folded(name)] = often.get(folded(name), 0) + 1
    used: set[str] = set()
    ids = []
    for group, name in zip(groups, plain, strict=True):
        last = group[-1]
        if often[folded(name)] > 1 and last.number:
            name = student_id(last.name, last.number)
        n, base = 1, name
        while folded(name) in used:
            n += 1
            name = student_id(base, str(n))
        used.add(folded(name))
        ids.append(name)
    return ids


# From uploads to entries


def _entries(uploads: Iterable[_Upload], lab: str) -> list[Entry]:
    groups: dict[tuple[str, str], list[_Upload]] = {}
    for upload in uploads:
        key = ("number", upload.number) if upload.number else ("name", upload.name)
        groups.setdefault(key, []).append(upload)
    several = sorted(groups.values(), key=lambda g: (folded(g[-1].name), _natural(g[-1].number)))
    ids = _distinct(several)
    entries = [_entry(group, student, lab) for group, student in zip(several, ids, strict=True)]
    return sorted(entries, key=lambda e: e.student)


def _entry(group: list[_Upload], student: str, lab: str) -> Entry:
    """What counts of all that one student has handed in."""
    last = group[-1]
    name = shown(last.name, MAX_SHOWN).strip() or student
    late = None if last.late is None else any(u.late for u in group)
    known = last.number if last.id is None else last.id
    entry = Entry(student, name, last.path, late, id=shown(known, MAX_IDS))
    files = [u for u in group if u.kind == "file"]
    if not files:
        what = "a text or a link" if last.kind in ("onlinetext", "text") else last.kind
        return replace(entry, problem=f"{name} has handed in {what}, and no file.")
    if len(files) < len(group):
        entry = replace(entry, remarks=("What was written online was left aside.",))
    folders = [u for u in files if u.path.is_dir()]
    packed = [u for u in files if u.file and _is_archive(u.path, u.file)]
    if folders:
        chosen = max(folders, key=_order)
        rest = [u for u in files if u is not chosen]
        return _of_folder(_left(entry, chosen, rest), chosen.path, lab)
    if packed:
        chosen = max(packed, key=lambda u: (_names_lab(u.file, lab), *_order(u)))
        rest = [u for u in files if u is not chosen]
        return _of_archive(_left(entry, chosen, rest), chosen.path)
    return _of_loose(entry, files)


def _left(entry: Entry, chosen: _Upload, rest: list[_Upload]) -> Entry:
    if not rest:
        return entry
    names = ", ".join(f"“{shown(u.file or u.path.name)}”" for u in rest[:5])
    names += f" and {len(rest) - 5} more" if len(rest) > 5 else ""
    which = shown(chosen.file or chosen.path.name)
    return replace(entry, remarks=(*entry.remarks, f"“{which}” counts; left aside: {names}."))


def _of_folder(entry: Entry, folder: Path, lab: str) -> Entry:
    """A student's folder: it is the submission, or holds an archive that is."""
    if _candidates(folder, lambda name: name == PROCFILE):
        return replace(entry, path=folder)
    packed: list[_Upload] = []
    with contextlib.suppress(OSError):  # its grading tells what cannot be read
        packed = [_Upload(p, "", p.name) for p in _children(folder)
                  if p.is_file() and _is_archive(p, p.name)]
    if not packed:
        return replace(entry, path=folder)
    chosen = max(packed, key=lambda u: (_names_lab(u.file, lab), *_order(u)))
    rest = [u for u in packed if u is not chosen]
    return _of_archive(_left(entry, chosen, rest), chosen.path)


def _of_archive(entry: Entry, path: Path) -> Entry:
    entry = replace(entry, path=path)
    try:
        archives.check(path)
    except ArchiveError as error:
        return replace(entry, problem=error.message)
    except OSError:
        return entry  # opening it will tell, and that it is not its author's fault
    return entry


def _of_loose(entry: Entry, files: list[_Upload]) -> Entry:
    """Files that were uploaded one by one: together they are the folder.

    After a second upload Canvas calls all of them `name-1`.
    """
    versions = [_version(u.file) for u in files if _unversioned(u.file) == PROCFILE]
    upto = max(versions, default=0)
    chosen: dict[str, _Upload] = {}
    for upload in sorted(files, key=_order):
        name = upload.file
        if 0 < _version(name) <= upto:
            name = _unversioned(name)
        name = re.sub(r"[/\\\0]", "_", name)
        chosen["_" if name in (".", "..") else name] = upload
    loose = tuple((name, upload.path) for name, upload in sorted(chosen.items()))
    remark = f"{len(loose)} single files were handed in; they are graded as one folder."
    return replace(entry, path=files[-1].path.parent, loose=loose, remarks=(*entry.remarks, remark))


def _order(upload: _Upload) -> tuple[int, int, str]:
    return upload.order, _version(upload.file), upload.path.name


def _version(name: str) -> int:
    found = _VERSION.fullmatch(name)
    return int((found["a"] or found["b"] or 0) if found else 0)


def _unversioned(name: str) -> str:
    found = _VERSION.fullmatch(name)
    return found["stem"] + found["end"] if found else name


def _natural(number: str) -> tuple[int, str]:
    return (len(number), number)


# The layouts


def _gradescope(top: Path, children: list[Path]) -> list[_Upload]:
    """Folders `submission_<number>`, their names in a YAML file; none if it is no such export."""
    folders = [(c, f) for c in children if c.is_dir() and (f := _GRADESCOPE.fullmatch(c.name))]
    if not folders or not ((top / METADATA).is_file() or len(folders) == len(children)):
        return []
    people: dict[str, list[dict[str, str]]] = {}
    with contextlib.suppress(OSError):
        people = read_metadata(top / METADATA)
    uploads = []
    # A student that is there twice counts with the higher number, under which both are put.
    last: dict[str, str] = {}
    for path, found in sorted(folders, key=lambda pair: int(pair[1]["number"])):
        who = people.get(path.name, [])
        name = ", ".join(p["name"] for p in who if p.get("name")) or path.name
        mails = ",".join(sorted(p.get("email", "") for p in who))
        key = mails if mails.strip(",") else path.name
        last[key] = found["number"]
        known = ", ".join(filter(None, (p.get("sid") or p.get("email") for p in who)))
        uploads.append((key, _Upload(path, name, "", order=int(found["number"]), id=known)))
    return [replace(upload, number=last[key]) for key, upload in uploads]


def read_metadata(path: Path) -> dict[str, list[dict[str, str]]]:
    """The submitters of each submission folder: name, sid, email, as far as they can be read.

    No YAML reader, which would be a dependency for three fields: it takes the lines of the lists
    called `:submitters:` and passes over everything else. Raises OSError.
    """
    people: dict[str, list[dict[str, str]]] = {}
    current: list[dict[str, str]] | None = None
    indent = -1  # of the list that is being read
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for line in lines:
            if found := re.match(r"(['\"]?)(submission_\w+)\1:\s*$", line):
                current, indent = people.setdefault(found[2], []), -1
                continue
            if current is None or not line.strip():
                continue
            depth = len(line) - len(line.lstrip(" "))
            if indent < 0:
                if not current and re.match(r" {1,4}['\"]?:?submitters['\"]?:\s*$", line):
                    indent = depth
                continue
            dash = line.lstrip(" ").startswith("- ")
            if depth < indent or (depth == indent and not dash):
                current, indent = None, -1  # what follows may be what the student has printed
                continue
            if dash:
                current.append({})
            field = re.match(r" *(?:- +)?['\"]?:?(name|sid|email)['\"]?: +(.*?)\s*$", line)
            if field and current:
                current[-1][field[1]] = _scalar(field[2])
    return people


def _scalar(text: str) -> str:
    """A YAML scalar on one line; "" for what is none."""
    text = re.sub(r"^!\s+", "", text)  # Ruby's mark for a string
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        with contextlib.suppress(ValueError):
            return str(json.loads(re.sub(r"\\x([0-9A-Fa-f]{2})", r"\\u00\1", text)))
        return text[1:-1]
    if text[:1] in ("|", ">", "!", "&", "*", "{", "[") or text in ("null", "~"):
        return ""
    return re.sub(r"\s+#.*$", "", text)


def _named(children: list[Path], remarks: list[str]) -> list[_Upload]:
    """Moodle's and Canvas's uploads, known by their names, and all others."""
    uploads: list[_Upload] = []
    others: list[Path] = []
    for path in children:
        found = _MOODLE.fullmatch(unicodedata.normalize("NFC", path.name))
        if found and (path.is_dir() or found["file"]):
            file = "" if path.is_dir() else found["file"]
            uploads.append(_Upload(path, found["name"], file, found["number"] or "", found["kind"]))
        else:
            others.append(path)
    packed = [p for p in others if p.is_file() and _is_archive(p, p.name)]
    canvas = [u for p in others if p.is_file() and (u := _of_canvas(p, p in packed))]
    matched = {u.path for u in canvas}
    # Also `mueller_03_2024_last.zip` looks like Canvas's: most must. Canvas makes no folders.
    like = 2 * len(matched.intersection(packed)) >= len(packed)
    if like and (packed or all(p.is_file() for p in others)):
        uploads += canvas
        others = [p for p in others if p not in matched]
    return uploads + _plain(others, remarks)


def _of_canvas(path: Path, packed: bool) -> _Upload | None:
    name = unicodedata.normalize("NFC", path.name)
    for pattern in (_CANVAS_ANONYMOUS, _CANVAS, _CANVAS_TEXT):
        if found := pattern.fullmatch(name):
            upload = found.groupdict().get("upload") or ""
            if upload and not packed and len(upload) < 3:
                continue  # `marks_2026_11_24.csv` is a date
            return _Upload(
                path, found["name"], found["file"], found["number"],
                kind="text" if pattern is _CANVAS_TEXT else "file",
                late=bool(found["late"]), order=int(upload or 0),
            )  # fmt: skip
    return None


def _plain(children: list[Path], remarks: list[str]) -> list[_Upload]:
    """One folder or archive per student; other files are no submissions."""
    taken = [p for p in children if p.is_dir() or _is_archive(p, p.name)]
    stems = {folded(_stem(p.name)) for p in taken}
    uploads = []
    for path in taken:
        file = "" if path.is_dir() else unicodedata.normalize("NFC", path.name)
        name = _stem(path.name)
        # `mueller (1).zip` beside `mueller.zip` is a second download of it.
        copy = re.fullmatch(r"(.+?) ?\(\d{1,3}\)", name)
        if file and copy and folded(copy[1]) in stems:
            name = copy[1]
        uploads.append(_Upload(path, name, file))
    rest = [p.name for p in children if p not in taken]
    if rest:
        names = ", ".join(f"“{shown(n)}”" for n in rest[:5]) + (", …" if len(rest) > 5 else "")
        remarks.append(f"No submissions, and left aside: {names}.")
    return uploads


# Folders and files


def _opened(archive: Path, work: Path | None, remarks: list[str]) -> Path:
    if work is None:
        raise ValueError("an archive of a class needs a folder to be opened in")
    work.mkdir(parents=True, exist_ok=True)
    to = unused(work, "class")
    remarks += archives.unpack(archive, to, archives.CLASS)
    return to


def _inner(top: Path, source: Path, work: Path | None, remarks: list[str]) -> Path:
    """Past the one folder or archive that holds the whole export."""
    children = list(_children(top))
    if len(children) != 1 or (top / PROCFILE).is_file():
        return top
    only = children[0]
    # An export in which there is but one student's is an export.
    if _gradescope(top, children) or _MOODLE.fullmatch(unicodedata.normalize("NFC", only.name)):
        return top
    if only.is_dir():
        if _is_export(only, list(_children(only))):
            return only
        several = _holds_several(only)
        if several and not source.is_dir():
            return only
        # Also where they may be those of several, of whom all but one have handed in nothing.
        folders = [p for p in _children(only) if p.is_dir()]
        if several or (len(folders) > 1 and not _is_of_one(only)):
            remarks.append(TAKEN_FOR_ONE.format(shown(only.name)))
        return top
    if work is None or not source.is_dir() or not _is_archive(only, only.name):
        return top
    with contextlib.suppress(ArchiveError):
        said: list[str] = []
        to = _opened(only, work, said)
        inner = _inner(to, only, None, said)
        if _is_export(inner, list(_children(inner))):
            remarks += said
            return inner
        if _holds_several(inner):
            remarks.append(TAKEN_FOR_ONE.format(shown(only.name)))
        shutil.rmtree(to, ignore_errors=True)
    return top


def _holds_several(folder: Path) -> bool:
    """Whether there are several submissions in here that are not one student's, as it seems."""
    if _is_of_one(folder):
        return False
    others = [p for p in _children(folder) if not _OF_A_LAB.fullmatch(_stem(p.name))]
    folders = [p for p in others if p.is_dir() and _candidates(p, _may_be_graded)]
    packed = {_unversioned(_stem(p.name)) for p in others if p.is_file() and _is_archive(p, p.name)}
    return len(folders) + len(packed) > 1


def _may_be_graded(name: str) -> bool:
    return name == PROCFILE or bool(_ARCHIVE_NAME.search(name))


def _is_of_one(folder: Path) -> bool:
    """Whether this is a submission, or the whole kit, which one has handed in."""
    kit = any((folder / name).is_dir() for name in ("starter", "graders", "solutions"))
    return kit or (folder / PROCFILE).is_file()


def _is_export(folder: Path, children: list[Path]) -> bool:
    """Whether this is what a platform hands out."""
    if (folder / METADATA).is_file() or _gradescope(folder, children):
        return True
    names = [unicodedata.normalize("NFC", p.name) for p in children]
    known = [n for n in names if _MOODLE.fullmatch(n) or _CANVAS.fullmatch(n)]
    return bool(known) and 2 * len(known) >= len(names)


def _children(folder: Path, remarks: list[str] | None = None) -> Iterator[Path]:
    """What is visible in a folder, in the order of names. Links are not followed."""
    for path in sorted(folder.iterdir(), key=lambda p: (folded(p.name), p.name)):
        if path.name.startswith(".") or is_junk(path.name) or path.name in LEFT_OUT:
            continue
        if path.is_symlink():
            if remarks is not None:
                remarks.append(f"“{shown(path.name)}” is a link, and was left aside.")
        elif path.is_dir() or path.is_file():
            yield path


def _is_archive(path: Path, name: str) -> bool:
    """By its name, also if its content is none; or by its content, if it is no document."""
    if _ARCHIVE_NAME.search(name):
        return True
    with contextlib.suppress(OSError):
        return not _DOCUMENT_NAME.search(name) and archives.kind_of(path) in archives.KINDS
    return False


def _stem(name: str) -> str:
    """A name without what says that it is an archive."""
    name = unicodedata.normalize("NFC", name)
    return _ARCHIVE_NAME.sub("", name) or name


def _names_lab(name: str, lab: str) -> bool:
    wanted = _lab_number(lab)
    return wanted is not None and any(
        int(n) == wanted for n in re.findall(r"(?i)lab[ _-]?(\d{1,3})(?!\d)", name)
    )


def _lab_number(lab: str) -> int | None:
    found = re.fullmatch(r"(?:lab)?(\d{1,3})", lab.strip().lower())
    return int(found[1]) if found else None


def _candidates(top: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Folders with such a file, at most LEVELS below the top, the shallowest first."""
    found, level = [], [top]
    for depth in range(LEVELS + 1):
        below: list[Path] = []
        for folder in level:
            children = []
            with contextlib.suppress(OSError):  # grading tells what cannot be read
                children = list(_children(folder))
            if any(wanted(p.name) for p in children if p.is_file()):
                found.append(folder)
            below += [p for p in children if p.is_dir() and p.name != "node_modules"]
        level = below if depth < LEVELS else []
    return found


def _with_procfile(top: Path, lab: str, remarks: list[str]) -> Path:
    """The folder to grade. The one that is named as the lab comes first, then the shallowest."""
    found = _candidates(top, lambda name: name == PROCFILE)
    if not found:  # a `procfile` or `Procfile.txt` is told of where it is
        near = _candidates(top, lambda name: name.lower() in ("procfile", "procfile.txt"))
        return near[0] if near else top
    wanted = _lab_number(lab)
    same = [p for p in found if wanted is not None and _lab_number(p.name) == wanted]
    # A whole kit holds more than one: the student's is the one in starter/.
    chosen = next((p for p in same if p.parent.name == "starter"), (same or found)[0])
    if len(found) > 1:
        where = chosen.relative_to(top).as_posix()
        remarks.append(f"There are {len(found)} Procfiles; the one in “{shown(where)}” counts.")
    return chosen
