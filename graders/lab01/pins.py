"""Whether a list of requirements names the exact version of each package."""

from __future__ import annotations

import contextlib
import errno
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from graders.harness import ordinary

MANIFEST = "requirements.txt"
LONGEST = 1_000_000  # bytes of a list that are read
# Lists that other tools keep, in which every version is exact.
LOCK_FILES = (
    "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "pylock.toml", "package-lock.json",
    "yarn.lock", "pnpm-lock.yaml", "go.sum", "Cargo.lock", "Gemfile.lock", "packages.lock.json",
)  # fmt: skip

_OPTION = re.compile(r"\s--?[A-Za-z].*$")
_ARCHIVE = re.compile(r"\.(?:whl|zip|tar\.\w+|tgz)(?:[#?]|$)")
_REVISION = re.compile(r"@[^/@\s]+$")


@dataclass(frozen=True)
class Entry:
    """A line of a list of requirements."""

    file: str
    line: int
    text: str

    @property
    def name(self) -> str:
        """The package's name as pip compares it; empty if there is none."""
        try:
            return canonicalize_name(Requirement(self.text).name)
        except InvalidRequirement:
            return ""


def entries(folder: Path, name: str, _seen: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """The requirements of a list, and of those that it includes (-r). Raises OSError."""
    for number, line in _lines(_read(folder, name)):
        option = re.fullmatch(r"(?:-r|--requirement)[\s=]*(\S+)", line)
        if option:
            other = posixpath.normpath(posixpath.join(posixpath.dirname(name), option[1]))
            if other not in _seen | {name}:
                yield from entries(folder, other, _seen | {name})
        elif not line.startswith("-"):
            yield Entry(name, number, _OPTION.sub("", line).strip())


def unpinned(folder: Path, name: str = MANIFEST) -> list[Entry]:
    """Those of the requirements that have no exact version, here or in a constraint (-c)."""
    pinned = {each.name for each in _constraints(folder, name) if is_exact(each.text)}
    return [
        each for each in entries(folder, name)
        if not is_exact(each.text) and (not each.name or each.name not in pinned)
    ]  # fmt: skip


def is_exact(text: str) -> bool:
    """Whether a requirement can be met by one version only. Extras, markers and hashes may be."""
    if re.match(r"\.|/|file:", text):
        return True  # it comes with the program
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return _is_fixed(text) if "://" in text else False
    if requirement.url:
        return _is_fixed(requirement.url)
    return any(
        each.operator == "===" or (each.operator == "==" and not each.version.endswith(".*"))
        for each in requirement.specifier
    )


def _is_fixed(url: str) -> bool:
    """Whether an address names one archive, or one revision of a repository."""
    if re.match(r"(?:git|hg|svn|bzr)\+", url):
        return bool(_REVISION.search(url.partition("#")[0].partition("://")[2]))
    return bool(_ARCHIVE.search(url))


def _constraints(folder: Path, name: str) -> Iterator[Entry]:
    for _, line in _lines(_read(folder, name)):
        option = re.fullmatch(r"(?:-c|--constraint)[\s=]*(\S+)", line)
        if option:
            with contextlib.suppress(OSError):
                yield from entries(folder, str(Path(name).parent / option[1]))


def _read(folder: Path, name: str) -> str:
    """A list of the folder. Raises OSError for what is none, or lies outside of the folder.

    Of a stranger's folder, a list could name any file of this machine, and its lines be shown.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise OSError(errno.EACCES, "It lies outside of the folder", name)
    return ordinary.beginning(path, LONGEST).decode("utf-8", "replace")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines as pip reads them: continued ones joined, comments taken away."""
    joined, began = "", 0
    for number, line in enumerate([*text.removeprefix("\ufeff").splitlines(), ""], 1):
        began = began or number
        if line.rstrip().endswith("\\") and not line.lstrip().startswith("#"):
            joined += line.rstrip()[:-1] + " "
            continue
        whole = re.sub(r"(?:^|\s)#.*$", "", joined + line).strip()
        if whole:
            yield began, whole
        joined, began = "", 0
