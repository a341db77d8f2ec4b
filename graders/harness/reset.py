"""`make reset`: bring a lab's starter back, and keep the student's work beside it.

The original of each starter is kept as text in graders/<lab>/starter.json. Git could not give it
back: a student may have committed over it, cloned without its history, or have no git at all.
After a change to a starter, write that file anew; a test compares the two:

    python -m graders.harness.reset starter/lab03
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from graders.harness import settings
from graders.harness.settings import ORIGINAL, Lab, SettingError

# What a run leaves behind in a folder, and no part of a starter.
NOT_OURS = {"__pycache__", ".pytest_cache", ".ruff_cache", ".venv", ".git", ".DS_Store", ".idea",
            ".vscode"}


def main(env: Mapping[str, str]) -> int:
    """Put the starter back. The work that was there is moved, never deleted."""
    lab = settings.read(env).the_lab
    original = original_of(lab)
    if lab.starter.is_dir() and files_of(lab.starter) == original:
        print(f"starter/{lab.name} is as it came; there is nothing to bring back.")
        return 0
    kept = _move_aside(lab.starter)
    try:
        write_files(original, lab.starter)
    except OSError as error:
        where = f" Your work is in {_shown(kept)}." if kept else ""
        raise SettingError(f"The starter cannot be written: {error}.{where}") from None
    print(f"starter/{lab.name} is as it came.")
    if kept:
        print(f"Your work is in {_shown(kept)}")
        print(f"To grade that: make grade LAB={lab.number} SRC={_shown(kept)}")
    return 0


def original_path(lab: Lab) -> Path:
    """Where the original of this lab's starter is kept."""
    return lab.grader / ORIGINAL


def original_of(lab: Lab) -> dict[str, str]:
    """The starter as it came: path inside the folder -> text. Raises SettingError."""
    try:
        kept = json.loads(original_path(lab).read_text(encoding="utf-8"))
        return {str(name): str(text) for name, text in kept.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise SettingError(f"The original of starter/{lab.name} is not here: {error}.") from None


def write_files(files: Mapping[str, str], to: Path) -> None:
    """Write files, as original_of tells them, into a folder that is made. Raises OSError."""
    for name, text in files.items():
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def files_of(folder: Path) -> dict[str, str]:
    """The files of a starter folder: path inside it -> text, in order.

    A file that is not text counts as one with other text than any.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not NOT_OURS.intersection(inside.parts) and path.is_file():
            found[inside.as_posix()] = path.read_bytes().decode("utf-8", "surrogateescape")
    return found


def _move_aside(folder: Path) -> Path | None:
    """Rename the folder to one that says when it was moved; None if there is no folder."""
    if not folder.exists() and not folder.is_symlink():
        return None
    moment = time.strftime("%Y-%m-%d-%H%M%S")
    kept = folder.with_name(f"{folder.name}.before-reset-{moment}")
    number = 2
    while kept.exists():
        kept = folder.with_name(f"{folder.name}.before-reset-{moment}-{number}")
        number += 1
    try:
        folder.rename(kept)
    except OSError as error:
        raise SettingError(
            f"Your work in {_shown(folder)} cannot be moved aside, so nothing was changed: {error}."
        ) from None
    return kept


def _shown(path: Path) -> str:
    return os.path.relpath(path, settings.ROOT)


def _keep_original(folder: Path) -> None:
    """For authors: keep this starter folder as the original of its lab."""
    lab = settings.lab(folder.resolve().name)
    text = json.dumps(files_of(folder), indent=1, ensure_ascii=False)
    text.encode("utf-8")  # a starter is all text
    original_path(lab).write_text(text + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        _keep_original(Path(name))
