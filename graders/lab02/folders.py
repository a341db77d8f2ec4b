"""A private copy of a submission whose migrations a check adds to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from graders.harness.lab import Lab

_FILE = re.compile(r"(\d+)_.*\.up\.sql")


@dataclass(frozen=True)
class Folder:
    """The copy, and the number that a next migration has."""

    path: Path
    next: str  # "003"

    @classmethod
    def copied(cls, lab: Lab) -> Folder:
        """A copy for this check alone. Its next number is one above the student's last."""
        path = lab.session.private_copy(lab.check_name)
        place = path / "migrations"
        if os.path.lexists(place) and not place.is_dir():
            raise lab.finding(
                "not-applied", "“migrations” is the folder of the migrations; one is added there.",
                "It is no folder.",
            )  # fmt: skip
        found = [_FILE.fullmatch(file.name) for file in place.glob("*.up.sql")]
        numbers = [each[1] for each in found if each]
        last = max(numbers, key=int, default="000")
        return cls(path, str(int(last) + 1).zfill(len(last)))

    @property
    def count(self) -> int:
        """How many migrations there are."""
        return len(list((self.path / "migrations").glob("*.up.sql")))

    def write(self, name: str, up: str, down: str, later: int = 0) -> str:
        """Write a migration after all others; returns the name of its file to go up.

        `later` is how many numbers it leaves out.
        """
        folder = self.path / "migrations"
        folder.mkdir(exist_ok=True)
        number = str(int(self.next) + later).zfill(len(self.next))
        file = folder / f"{number}_{name}.up.sql"
        file.write_text(up, encoding="utf-8")
        (folder / f"{number}_{name}.down.sql").write_text(down, encoding="utf-8")
        return file.name
