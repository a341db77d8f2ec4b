"""Whether the program that an image starts is in it, as far as the Dockerfile says so.

For machines on which the image cannot be built. What is copied from other stages is not followed:
where something might come from there, nothing is said.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from graders.lab01.context import cleaned, is_pattern
from graders.lab01.dockerfile import Instruction
from graders.lab01.reading import Recipe

_PYTHON = re.compile(r"python[\d.]*")


def trouble(recipe: Recipe, started: Sequence[str]) -> tuple[str, tuple[Instruction, ...]] | None:
    """Why what is started cannot run: a sentence, and the lines that say so; None if it may."""
    if started and " " in started[0].strip():
        return (
            f"What is started is one program called “{started[0]}”, spaces included: in the exec "
            "form each word is a text of its own.", (),
        )  # fmt: skip
    copied = list(_copied(recipe))
    module = _module(started)
    if module and f"{module}/" in recipe.context.paths:
        took = [each for each, source, _ in copied if cleaned(source) == module]
        if took and not any(_holds(module, source, target) for _, source, target in copied):
            return (
                f"Line {took[0].line} copies what is in “{module}/”, and not the folder itself, so "
                f"there is no module “{module}” in the image.", tuple(took),
            )  # fmt: skip
    return _not_copied(recipe, copied)


def _module(started: Sequence[str]) -> str:
    """The module that Python is to run: "worker" for `python -m worker`; else empty."""
    words = list(started)
    if words and _PYTHON.fullmatch(posixpath.basename(words[0])) and "-m" in words[:-1]:
        return words[words.index("-m") + 1].split(".")[0]
    return ""


def _copied(recipe: Recipe) -> Iterator[tuple[Instruction, str, str]]:
    """What the last stage's image takes from the folder: instruction, source and target."""
    stage = recipe.file.last
    for each in stage.all:
        if each.name in ("COPY", "ADD") and each.takes:
            target = recipe.file.expanded(each.words[-1], stage, each)
            for source in recipe.takes(stage, each):
                yield each, source, target


def _holds(module: str, source: str, target: str) -> bool:
    """Whether a module's folder may be there after this copy."""
    source = cleaned(source)
    if is_pattern(source):
        return module in source.split("/") or not source.split("/")[0].strip("*?[]")
    if not source:
        return True  # all of the folder
    inside = source == module or source.startswith(f"{module}/")
    return inside and module in target.rstrip("/").split("/")


def _not_copied(
    recipe: Recipe, copied: Sequence[tuple[Instruction, str, str]]
) -> tuple[str, tuple[Instruction, ...]] | None:
    """A module of the folder that copied code imports, and that is not copied itself."""
    brought = {path for _, source, _ in copied for path in recipe.context.below(source)}
    theirs = [each.shown for each in recipe.file.last.all if each.flag("from") is not None]
    for path in sorted(brought):
        if not path.endswith(".py"):
            continue
        text = (recipe.folder / path).read_text("utf-8", "replace")
        for name in re.findall(r"^(?:from|import)[ \t]+(\w+)", text, re.MULTILINE):
            file = f"{name}.py"
            if file in recipe.context.paths and file not in brought and not any(
                name in each for each in theirs
            ):
                lines = tuple(dict.fromkeys(each for each, _, _ in copied))
                return f"{path} imports {file}, which is not copied into the image.", lines
    return None
