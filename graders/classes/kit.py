"""`make student-kit OUT=dist`: what students get, as the folder worker-labs and as a zip of it.

What goes in is listed here, and nothing else does: no solutions, no wrong or right workers that the
graders are proved with, no tests, nothing for instructors. Files are taken as they lie in the
project; where that is a git checkout, only those that git knows. The starters are those that
`make reset` brings back, whatever has become of `starter/` here.

The kit carries the version of this project in graders/KIT (see harness/version.py): it holds each
file that decides a verdict, which is tested here each time, so both give the same verdicts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from graders.classes.wheels import FOLDER as WHEELHOUSE
from graders.harness import settings
from graders.harness.reset import files_of, original_of, write_files
from graders.harness.settings import ORIGINAL, SettingError
from graders.harness.version import STAMP, deciding, fingerprint, is_junk, version

NAME = "worker-labs"
DATE = (1980, 1, 1, 0, 0, 0)  # of each file in the zip, so that the same kit is the same zip
# A line of a Markdown file that ends with this is for readers of the whole kit. It stands at the
# end, or in a table's last cell, since a line that begins with it would break a paragraph.
NOT_FOR_STUDENTS = "<!-- not for students -->"

# What students get of the project, and of each lab; a folder stands for all that is in it.
TAKEN = (
    "Makefile", "README.md", "LICENSE", "pyproject.toml", ".gitignore", "notebooks",
    "graders/__init__.py", "graders/constraints.txt", "graders/setup.sh", "graders/harness",
    "graders/notebook",
)  # fmt: skip
TAKEN_OF_LAB = ("labs/{lab}", "graders/{lab}")
# What of that tells answers, or is of no use without the solutions.
LEFT_OUT = (
    "graders/harness/mutants.py", "graders/harness/prove.py", "graders/harness/bench.py",
)  # fmt: skip
LEFT_OUT_OF_LAB = ("graders/{lab}/mutants.toml", "graders/{lab}/variants")


@dataclass(frozen=True)
class Source:
    """The files of the project, as paths inside it, and what is to be said about them."""

    files: tuple[str, ...]
    others: tuple[str, ...] = ()  # where students' files are, and yet not in git
    remark: str = ""


def main(env: Mapping[str, str]) -> int:
    """Write the kit into OUT, and say where it is. WHEELS=1 puts the fetched packages in.

    NOTEBOOKS=no leaves the walkthroughs out, for those who give them out after a deadline.
    """
    try:
        return _main(env)
    except OSError as error:
        about = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        raise SettingError(f"The kit cannot be written: {about}.") from None


def _main(env: Mapping[str, str]) -> int:
    root = settings.ROOT
    out = _out(env.get("OUT", ""), root)
    wheels = _wheels(env.get("WHEELS", ""), root)
    source = project_files(root)
    with_notebooks = settings.switch("NOTEBOOKS", env.get("NOTEBOOKS", "").strip() or "1")
    if not with_notebooks:
        kept = tuple(name for name in source.files if not name.startswith("notebooks/"))
        source = replace(source, files=kept)
    told = version(root)
    folder, packed = out / NAME, out / zip_name(told)
    _check_replaceable(folder, packed)
    out.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that renaming is all that is left to do.
    place = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=out))
    try:
        made = place / NAME
        count = write(source.files, root, made, told)
        if not with_notebooks:
            _forget_notebooks(made / "README.md")
        if wheels is not None:
            count += _copy_wheels(wheels, made / WHEELHOUSE)
        pack(made, place / packed.name)
        before = _zip_of(folder)
        _swap(made, folder, place / "before")
        (place / packed.name).replace(packed)
        if before not in ("", packed.name):
            (out / before).unlink(missing_ok=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    size = sum(path.stat().st_size for path in _walk(folder))
    print(f"{folder}: version {told}, {count} files, {_megabytes(size)}.")
    print(f"{packed}: the same as a zip, {_megabytes(packed.stat().st_size)}.")
    for remark in _remarks(source, folder, wheels):
        print(remark)
    print("Next: put a copy of the folder into a repository of its own, or hand out the zip.")
    print("In it, `make test-setup` shows whether a machine can grade, and README.md how to begin.")
    return 0


def _remarks(source: Source, folder: Path, wheels: Path | None) -> Iterator[str]:
    if source.remark:
        yield source.remark
    if source.others:
        shown = ", ".join(source.others[:5]) + (", …" if len(source.others) > 5 else "")
        yield f"Left out, since git does not know it: {shown}."
    if wheels is not None and WHEELHOUSE in (folder / ".gitignore").read_text(encoding="utf-8"):
        yield f"Git passes over its {WHEELHOUSE}: the zip has the packages, a repository has not."


# What was asked for


def _out(named: str, root: Path) -> Path:
    """The folder to write into, as the user named it. Raises SettingError."""
    named = named if named.strip() else "dist"
    try:
        out = Path(named).expanduser()
    except RuntimeError:
        raise SettingError(f"OUT={named} names a user who is not here.") from None
    if out.exists() and not out.is_dir():
        raise SettingError(f"OUT={named} is a file; name a folder.")
    for name in ("graders", "labs", "notebooks", "starter", "solutions", WHEELHOUSE):
        if out.resolve().is_relative_to((root / name).resolve()):
            raise SettingError(f"OUT={named} lies in the kit's own {name}/; name another folder.")
    return out


def _wheels(asked: str, root: Path) -> Path | None:
    """The folder of fetched packages if they are to go in. Raises SettingError."""
    if not settings.switch("WHEELS", asked.strip() or "0"):
        return None
    if not any(_walk(root / WHEELHOUSE)):
        raise SettingError("No packages have been fetched yet; run make wheels first.")
    return root / WHEELHOUSE


def _check_replaceable(folder: Path, packed: Path) -> None:
    """Raise SettingError where something is in the way that is not ours, or is somebody's work."""
    if packed.is_dir():
        raise SettingError(f"{packed} is a folder; move it away, or name another OUT.")
    if not (folder.exists() or folder.is_symlink()):
        return
    if folder.is_symlink() or not (folder / STAMP).is_file():
        raise SettingError(
            f"{folder} is no student kit, so it is not replaced; move it away, or name another OUT."
        )
    if (folder / ".git").exists():
        raise SettingError(
            f"{folder} has become a git repository, whose history would be lost; name another OUT, "
            "and copy the new files over."
        )
    for starter in sorted((folder / "starter").glob("lab*")):
        kept = folder / "graders" / starter.name / ORIGINAL
        original = None  # of what `make reset` has put aside, there is none
        with contextlib.suppress(OSError, ValueError):
            original = json.loads(kept.read_text(encoding="utf-8"))
        if files_of(starter) != original:
            raise SettingError(
                f"Somebody has worked on {starter}, which would be lost; move that folder away, or "
                "name another OUT."
            )
    if (folder / ".worker-labs" / "servers.json").exists():
        raise SettingError(f"Servers are up in {folder}; run make down there first.")


def zip_name(told: str) -> str:
    """"worker-labs-0.1.0-1a2b3c4d5e6f.zip" for this version."""
    return f"{NAME}-{re.sub(r'[^0-9A-Za-z.]+', '-', told).strip('-.')}.zip"


def _zip_of(folder: Path) -> str:
    """The name of the zip that was made with the kit in this folder; "" if there is none."""
    try:
        return zip_name((folder / STAMP).read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return ""


# What goes in


def project_files(root: Path) -> Source:
    """What the project in this folder has for students, starters aside."""
    tracked, problem = _git(root)
    if "Makefile" in tracked:
        files = _for_students(tracked, tracked)
        others = _for_students(_git(root, "--others", "--exclude-standard")[0], tracked)
        missing = [name for name in files if not (root / name).is_file()]
        if missing:
            raise SettingError(
                f"{missing[0]} is in git and not in this folder; bring it back, or git rm it."
            )
        return Source(files, others)
    # No checkout; or a copy inside somebody's repository, which does not know it.
    lying = [path.relative_to(root).as_posix() for top in _tops(root) for path in _walk(top)]
    remark = ""
    if (root / ".git").exists():
        remark = f"Git does not say what belongs to the project ({problem}); all files were taken."
    return Source(_for_students(lying, lying), remark=remark)


def _tops(root: Path) -> Iterator[Path]:
    labs = (folder.name for folder in root.glob("labs/lab[0-9]*"))
    for name in (*TAKEN, *_of_labs(TAKEN_OF_LAB, labs)):
        yield root / name


def _git(root: Path, *which: str) -> tuple[list[str], str]:
    """`git ls-files` in this folder, and why it cannot be had."""
    ours = {n: v for n, v in os.environ.items() if n not in ("GIT_DIR", "GIT_WORK_TREE",
                                                             "GIT_INDEX_FILE", "GIT_PREFIX")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z", *which], env=ours, capture_output=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except OSError as error:
        return [], f"git cannot be run: {error.strerror}"
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return [], said[0].rstrip(".") if said else f"it ended with status {done.returncode}"
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name], "it lists no files"


def _for_students(names: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """Those of these files that students get. `known` tells which labs there are."""
    labs = _labs_of(known)
    taken = {*TAKEN, *_of_labs(TAKEN_OF_LAB, labs)}
    left_out = {*LEFT_OUT, *_of_labs(LEFT_OUT_OF_LAB, labs)}

    def belongs(name: str) -> bool:
        within = {name, *(each.as_posix() for each in PurePosixPath(name).parents)}
        return bool(within & taken) and not within & left_out and not is_junk(PurePosixPath(name))

    return tuple(sorted(filter(belongs, names)))


def _labs_of(names: Collection[str]) -> list[str]:
    """The labs that are described in these files: "lab01", …"""
    return [told[1] for name in names if (told := re.fullmatch(r"labs/(lab\d+)/lab\.toml", name))]


def _of_labs(patterns: Collection[str], labs: Collection[str] | Iterator[str]) -> list[str]:
    return [pattern.format(lab=lab) for lab in labs for pattern in patterns]


def _walk(top: Path) -> Iterator[Path]:
    """All files in a folder, or the file itself, in order; links are none."""
    if top.is_file() and not top.is_symlink():
        yield top
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


# Writing


def write(files: Collection[str], root: Path, to: Path, told: str) -> int:
    """Write the kit of these files and the starters into a new folder; how many files it has.

    Raises SettingError where it would not grade as the project does.
    """
    texts = {STAMP.as_posix(): f"{told}\n"}
    for lab in _labs_of(files):
        original = original_of(settings.lab(lab))
        texts |= {f"starter/{lab}/{name}": text for name, text in original.items()}
    for name in files:
        _copy(root / name, to / name)
    write_files(texts, to)
    for path in _walk(to):
        # As the zip unpacks it, whatever this user's umask is.
        path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    if fingerprint(to) != fingerprint(root):
        surplus = ", ".join(list(_surplus(root, to))[:5])
        raise SettingError(
            "The kit would not grade as this project does: "
            + (f"{surplus} would not be in it. Add that to git, or remove it." if surplus else
               "its files were changed meanwhile. Try again.")
        )  # fmt: skip
    return len(files) + len(texts)


def _copy(source: Path, to: Path) -> None:
    if source.is_symlink():
        raise SettingError(f"{source} is a link, which a student kit cannot hold.")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    shutil.copymode(source, to)
    if to.suffix == ".md":
        mark = NOT_FOR_STUDENTS.encode()
        lines = to.read_bytes().splitlines(keepends=True)
        to.write_bytes(b"".join(line for line in lines if mark not in line))


def _forget_notebooks(readme: Path) -> None:
    """Take out of the README what it says of notebooks: their section, and each line of a list."""
    text = readme.read_text(encoding="utf-8")
    text = re.sub(r"^## The notebooks\n.*?(?=^## |\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = text.splitlines(keepends=True)
    readme.write_text("".join(line for line in lines if "make notebook" not in line),
                      encoding="utf-8")


def _copy_wheels(wheels: Path, to: Path) -> int:
    count = 0
    for path in _walk(wheels):
        inside = path.relative_to(wheels)
        if not is_junk(inside):
            _copy(path, to / inside)
            (to / inside).chmod(0o644)
            count += 1
    return count


def _surplus(root: Path, made: Path) -> Iterator[str]:
    """Files that decide verdicts, and are not in the kit."""
    for path in sorted(deciding(root)):
        name = path.relative_to(root)
        if not (made / name).exists():
            yield name.as_posix()


def pack(folder: Path, to: Path) -> None:
    """Write a zip of a kit. The same files give the same bytes."""
    with zipfile.ZipFile(to, "w") as archive:
        for path in _walk(folder):
            info = zipfile.ZipInfo(f"{NAME}/{path.relative_to(folder).as_posix()}", DATE)
            info.create_system = 3  # Unix, whose modes these are
            info.external_attr = path.stat().st_mode << 16
            # Wheels are zips themselves.
            stored = path.suffix in (".whl", ".gz")
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes(), compresslevel=9)


def _swap(made: Path, to: Path, aside: Path) -> None:
    """Put the new folder under its name: what stands there is the old one, none, or all of it."""
    if to.exists():
        to.rename(aside)
    try:
        made.rename(to)
    except BaseException:
        if aside.exists():
            aside.rename(to)
        raise


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
