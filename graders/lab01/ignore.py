"""What of a folder Docker takes into a build: .dockerignore, by Docker's own rules.

They are not those of .gitignore: a pattern is matched from the root of the context on, so
`__pycache__` is the one folder of that name at the top, and `**/__pycache__` each one. The rules
are those of Docker's reference ("Dockerfile reference", section ".dockerignore file") and of the
package that both builders use for it (moby/patternmatcher).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

ALWAYS_THERE = ("Dockerfile", ".dockerignore")  # the builder reads them, ignored or not


@dataclass(frozen=True)
class Ignore:
    """The patterns of a .dockerignore, in their order."""

    patterns: tuple[tuple[bool, re.Pattern[str]], ...] = ()  # whether it takes back, what it fits

    @classmethod
    def read(cls, text: str) -> Ignore:
        """From the text of the file. A pattern that Docker would not accept fits nothing."""
        patterns = []
        for line in text.removeprefix("\ufeff").splitlines():
            if line.startswith("#") or not line.strip():
                continue
            line = line.strip()
            takes_back = line.startswith("!")
            line = posixpath.normpath(line.removeprefix("!").strip() or ".")
            line = line.lstrip("/") or "/"
            if line != ".":  # "for historical reasons, the pattern . is ignored"
                patterns.append((takes_back, glob(line)))
        return cls(tuple(patterns))

    def ignores(self, path: str) -> bool:
        """Whether a path (relative to the context, with /) is left out of the build.

        Each pattern that fits the path, or a folder it is in, decides anew; the last one counts.
        """
        paths = [path, *map(str, PurePosixPath(path).parents)][:-1]
        ignored = False
        for takes_back, pattern in self.patterns:
            if takes_back == ignored and any(map(pattern.fullmatch, paths)):
                ignored = not takes_back
        return ignored

    def left(self, files: Iterable[str]) -> list[str]:
        """Those of the files that are taken into the build."""
        return [path for path in files if path in ALWAYS_THERE or not self.ignores(path)]


def glob(pattern: str, deep: bool = True) -> re.Pattern[str]:
    """A pattern as Go's filepath.Match has them; with `deep` also `**`, any number of folders."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and deep and pattern[at : at + 1] == "*":
            at += 1
            if pattern[at : at + 1] == "/":
                at += 1
            out.append(".*" if at == len(pattern) else "(?:.*/)?")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := _end_of_class(pattern, at)) > 0:
            out.append(_class(pattern[at:end]))
            at = end + 1
        elif char == "\\" and at < len(pattern):
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:  # a class such as [z-a]
        return re.compile(r"(?!)")


def _end_of_class(pattern: str, at: int) -> int:
    """Where the class that begins at `at` ends; -1 if it does not."""
    first = at + (pattern[at : at + 1] in ("^", "!"))
    return pattern.find("]", first + 1)


def _class(inner: str) -> str:
    negated = inner[:1] in ("^", "!")
    inner = re.sub(r"([\[&~|^])", r"\\\1", inner[negated:])  # what means something to re only
    return f"[^/{inner}]" if negated else f"[{inner}]"
