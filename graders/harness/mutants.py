"""Wrong workers made from the reference by small exact edits, and right ones written differently.

`graders/labNN/mutants.toml` lists the wrong ones: the bug each stands for, where it was reported,
and the exact checks and finding codes that must catch it. `graders/labNN/variants/` holds the
right ones.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graders.harness import settings


class MutantError(Exception):
    """An edit that does not fit the reference (any more)."""


@dataclass(frozen=True)
class Edit:
    """Replace `text`, which must occur exactly once in `file`."""

    file: str
    text: str
    replacement: str


@dataclass(frozen=True)
class Mutant:
    """A wrong worker. `caught_by` maps the checks that must fail to their finding codes."""

    name: str
    about: str  # one sentence: what it does wrong
    bug: str  # the entry of the list of real bugs it stands for, or ""
    report: str  # the public report of that bug, or ""
    edits: tuple[Edit, ...]
    caught_by: Mapping[str, str]
    may_fail: tuple[str, ...] = ()  # checks that the same bug makes fail on some runs only


@dataclass(frozen=True)
class Variant:
    """A right worker written differently. `expect_lost`: the technique points it gives up."""

    name: str
    folder: Path
    about: str
    expect_lost: tuple[str, ...]


def mutants(lab: settings.Lab) -> list[Mutant]:
    """The lab's mutants, in the order of the file."""
    path = lab.grader / "mutants.toml"
    if not path.is_file():
        return []
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    return [
        Mutant(
            name=each["name"],
            about=each["about"],
            bug=each.get("bug", ""),
            report=each.get("report", ""),
            edits=tuple(Edit(**edit) for edit in each["edit"]),
            caught_by=each["caught_by"],
            may_fail=tuple(each.get("may_fail", ())),
        )
        for each in told.get("mutant", [])
    ]


def make(lab: settings.Lab, mutant: Mutant, to: Path) -> Path:
    """Write the mutant's whole folder to `to`. Raises MutantError if an edit does not fit."""
    shutil.copytree(settings.ROOT / "solutions" / lab.name, to)
    for edit in mutant.edits:
        path = to / edit.file
        text = path.read_text(encoding="utf-8")
        count = text.count(edit.text)
        if count != 1:
            raise MutantError(
                f"{mutant.name}: its text occurs {count} times in {edit.file}, not once:\n"
                f"{edit.text}"
            )
        path.write_text(text.replace(edit.text, edit.replacement), encoding="utf-8")
    return to


def variants(lab: settings.Lab) -> list[Variant]:
    """The lab's variants, by name."""
    found = []
    for path in sorted((lab.grader / "variants").glob("*/variant.toml")):
        told = tomllib.loads(path.read_text(encoding="utf-8"))
        found.append(
            Variant(
                name=path.parent.name,
                folder=path.parent,
                about=told["why"],
                expect_lost=tuple(told.get("expect_lost", ())),
            )
        )
    return found


def make_variant(lab: settings.Lab, variant: Variant, to: Path) -> Path:
    """Write the variant's whole folder to `to`: the reference, with its own files on top.

    What it does not bring (work.py, DATAFLOW.md, a module that fits) is the reference's.
    """
    shutil.copytree(settings.ROOT / "solutions" / lab.name, to)
    shutil.copytree(variant.folder, to, dirs_exist_ok=True)
    return to
