"""The Dockerfile and the folder it is in, as the checks of exercise 1c read them."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from graders.harness.jobs import JobsLab
from graders.harness.results import Evidence
from graders.lab01.commands import Install, compilers, installs
from graders.lab01.context import Context
from graders.lab01.dockerfile import Dockerfile, DockerfileError, Instruction, Stage

# Images that start as an ordinary user by themselves, by their names.
_ORDINARY_BASE = re.compile(r"(?:^|[:/@-])nonroot(?:$|[-@])|^cgr\.dev/chainguard/")


@dataclass(frozen=True)
class Recipe:
    """A Dockerfile and its context."""

    folder: Path
    file: Dockerfile
    context: Context

    def installs(self, stage: Stage) -> list[tuple[Instruction, Install]]:
        """What the instructions install that the image of a stage was made by."""
        return [
            (each, install) for each in stage.all if each.name == "RUN"
            for install in installs(each, self.file.variables(stage, each))
        ]  # fmt: skip

    def compilers(self, stage: Stage) -> list[tuple[Instruction, str]]:
        """The compilers and headers among that."""
        return [
            (each, name) for each in stage.all if each.name == "RUN"
            for name in compilers(each, self.file.variables(stage, each))
        ]  # fmt: skip

    def takes(self, stage: Stage, instruction: Instruction) -> list[str]:
        """What an instruction takes from the context, variables filled in."""
        return [self.file.expanded(source, stage, instruction) for source in instruction.takes]

    def user(self) -> tuple[str, Instruction | None]:
        """Who the image's program runs as, and the instruction that says so; empty: nobody says."""
        stage = self.file.last
        told = next((each for each in reversed(stage.all) if each.name == "USER"), None)
        if told is not None:
            return self.file.expanded(told.value, stage, told).strip("'\" "), told
        return ("nonroot" if _ORDINARY_BASE.search(stage.base) else ""), None

    def script(self, path: str) -> str | None:
        """The text of a program of the image, if it is a file of the context."""
        name = posixpath.basename(path)
        found = [each for each in self.context.files if posixpath.basename(each) == name]
        if len(found) != 1:
            return None
        try:
            return (self.folder / found[0]).read_text("utf-8", "replace")
        except OSError:
            return None


def read_recipe(lab: JobsLab) -> Recipe:
    """Read the submission's Dockerfile. Raises a Finding when there is none that can be read."""
    folder = Path(lab.session.submission.path)
    expected = "There is a Dockerfile, which Docker can read."
    path = folder / "Dockerfile"
    if not path.is_file():
        raise lab.finding("dockerfile-unusable", expected, f"There is no {path.name}.")
    lab.tell("Read the Dockerfile.")
    try:
        file = Dockerfile.read(path.read_text("utf-8", "replace"))
    except DockerfileError as error:
        raise lab.finding("dockerfile-unusable", expected, str(error)) from None
    return Recipe(folder, file, Context.read(folder))


def is_root(user: str) -> bool:
    """Whether this user of a USER is root; a group may stand behind it."""
    name = user.partition(":")[0].strip()
    return name in ("", "root") or (name.isdigit() and int(name) == 0)


def numbered(*instructions: Instruction | None) -> Evidence:
    """Instructions with the lines that they stand in."""
    lines = tuple(f"line {each.line}: {each.shown}" for each in instructions if each is not None)
    return Evidence("In the Dockerfile", lines)
