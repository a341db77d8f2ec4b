"""Which questions of ANSWERS.md are still open. They carry no points; instructors mark them."""

from __future__ import annotations

import re
from pathlib import Path

from graders.harness.ordinary import beginning

MOST = 256 * 1024  # bytes that are read
_HEADING = re.compile(r"^#{2,4}\s+(.*\S)\s*$")
_PLACEHOLDER = re.compile(r"^[_*\s]*your answer\s*:?[_*\s]*$|^\s*<!--.*-->\s*$", re.IGNORECASE)


def unanswered(path: Path) -> list[str]:
    """The questions (headings) with nothing under them but the placeholder.

    A missing file has one open question: where it is. Text that is not UTF-8 is read as it can be,
    and of one that is too long only the beginning.
    """
    try:
        lines = beginning(path, MOST).decode(errors="replace").splitlines()
    except OSError:
        return ["ANSWERS.md is not there"]
    found: list[tuple[str, bool, int]] = []  # question, answered, level
    for line in lines:
        heading = _HEADING.match(line)
        if heading:
            found.append((heading[1], False, len(line) - len(line.lstrip("#"))))
        elif found and line.strip() and not _PLACEHOLDER.match(line) and not line.startswith(">"):
            found[-1] = (found[-1][0], True, found[-1][2])
    # A heading with deeper headings under it is a chapter, not a question.
    deeper = {i for i, (_, _, level) in enumerate(found[:-1]) if found[i + 1][2] > level}
    return [q for i, (q, answered, _) in enumerate(found) if not answered and i not in deeper]
