"""The build context: the folder with the Dockerfile, as Docker takes it in."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from graders.harness.submission import LEFT_OUT
from graders.lab01.ignore import ALWAYS_THERE, Ignore, glob

# What is code, and so changes often. Neither lists of packages nor documents are.
CODE = frozenset({
    ".py", ".pyi", ".go", ".js", ".mjs", ".cjs", ".ts", ".rs", ".rb", ".java", ".kt", ".cs", ".c",
    ".cc", ".cpp", ".h", ".php", ".ex", ".exs",
})  # fmt: skip
NO_CODE = frozenset({"setup.py"})


@dataclass(frozen=True)
class Context:
    """The files and folders of a context (paths with /), and what Docker leaves out of them."""

    root: Path
    paths: frozenset[str]  # folders end with /
    ignore: Ignore
    ignore_file: str | None  # where the patterns stand

    @classmethod
    def read(cls, root: Path) -> Context:
        """Read a folder. Of environments and histories, only that they are there."""
        found = set()
        for folder, folders, names in os.walk(root):
            here = "" if Path(folder) == root else Path(folder).relative_to(root).as_posix() + "/"
            found |= {here + name for name in names} | {f"{here}{name}/" for name in folders}
            folders[:] = [name for name in folders if name not in LEFT_OUT]
        patterns, ignore_file = "", None
        for name in ("Dockerfile.dockerignore", ".dockerignore"):  # Docker prefers the first
            if name in found:
                patterns, ignore_file = (root / name).read_text("utf-8", "replace"), name
                break
        return cls(root, frozenset(found), Ignore.read(patterns), ignore_file)

    @cached_property
    def files(self) -> list[str]:
        """The files that a build gets."""
        return self.ignore.left(sorted(p for p in self.paths if not p.endswith("/")))

    def below(self, source: str) -> list[str]:
        """The files that a source of COPY brings, of those that a build gets."""
        return [path for path in self.files if _covers(cleaned(source), path)]

    def lacks(self, source: str) -> str:
        """Why a source of COPY is not in the build: "is not there", "is ignored"; else empty.

        A pattern may fit nothing.
        """
        source = cleaned(source)
        if not source or is_pattern(source):
            return ""
        here = [path for path in self.paths if _covers(source, path.rstrip("/"))]
        if not here:
            return "is not there"
        if source in ALWAYS_THERE or not all(self.ignore.ignores(p.rstrip("/")) for p in here):
            return ""
        return "is ignored"

    def code(self, sources: Iterable[str]) -> list[str]:
        """The code among what these sources of COPY bring."""
        return [
            path for source in sources for path in self.below(source)
            if posixpath.splitext(path)[1] in CODE and posixpath.basename(path) not in NO_CODE
        ]  # fmt: skip


def is_pattern(source: str) -> bool:
    """Whether a source may stand for several paths, or for none."""
    return any(char in source for char in "*?[")


def cleaned(source: str) -> str:
    """A source as a path from the root of the context; the root itself is empty."""
    return posixpath.normpath("/" + source).lstrip("/")


def _covers(source: str, path: str) -> bool:
    """Whether a source is this path, a folder it is in, or a pattern for one of them."""
    if not source or path == source or path.startswith(source + "/"):
        return True
    if not is_pattern(source):
        return False
    pattern = glob(source, deep=False)
    parts = path.split("/")
    return any(pattern.fullmatch("/".join(parts[:n])) for n in range(1, len(parts) + 1))
