"""`make hint`: three hints for each check, one more each time it is asked.

They stand in labs/<lab>/hints.md: `## check_name`, and below it `### 1`, `### 2` and `### 3`: a
nudge, a pointer, nearly the answer.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from graders.harness import settings
from graders.harness.labs import last_result
from graders.harness.report.text import emit, wrap
from graders.harness.settings import Lab, SettingError

WIDTH = 100
LEVELS = 3
STATE = "hints.json"  # {"lab03": {"check_name": how many were shown}}


class HintsError(ValueError):
    """hints.md is not as it should be; the text names the line."""


def parse(text: str) -> dict[str, tuple[str, ...]]:
    """The hints of each check, in the file's order. Raises HintsError.

    What stands before the first `##` is for readers of the file. Headings inside code fences are
    code.
    """
    found: dict[str, list[list[str]]] = {}
    check: str | None = None
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        heading = None if fenced else re.match(r"(##|###)\s+(\S.*?)\s*$", line)
        if heading and heading[1] == "##":
            check = heading[2].strip("`")
            if check in found:
                raise HintsError(f"line {number}: {check} has hints already")
            found[check] = []
        elif heading and check is None:
            raise HintsError(f"line {number}: a hint before the first check")
        elif heading:
            found[check].append([])
            if heading[2] != str(len(found[check])):
                raise HintsError(
                    f"line {number}: {check} should have hint {len(found[check])} here"
                )
        elif check is not None and found[check]:
            found[check][-1].append(line)
        elif check is not None and line.strip():
            raise HintsError(f"line {number}: text of {check} before its first hint")
    hints = {name: tuple("\n".join(h).strip() for h in levels) for name, levels in found.items()}
    for name, levels in hints.items():
        if len(levels) != LEVELS or not all(levels):
            raise HintsError(f"{name} should have {LEVELS} hints, none of them empty")
    return hints


def read(lab: Lab) -> dict[str, tuple[str, ...]]:
    """The hints of a lab; none if it has no hints.md. Raises HintsError."""
    path = lab.folder / "hints.md"
    return parse(path.read_text(encoding="utf-8")) if path.is_file() else {}


def main(env: Mapping[str, str]) -> int:
    """Show the next hint for CHECK, or for the first check that failed when last graded."""
    chosen = settings.read(env)
    lab = chosen.the_lab
    try:
        hints = read(lab)
    except HintsError as error:
        raise SettingError(f"labs/{lab.name}/hints.md cannot be read: {error}.") from None
    if len(chosen.checks) > 1:
        raise SettingError("Ask for the hint of one check at a time: CHECK=name.")
    if chosen.checks:
        check = _known(chosen.checks[0], hints, lab)
    else:
        check = _first_failed(lab)
        if check not in hints:
            raise SettingError(f"{check} failed first when you last graded, and has no hints.")
    emit(_page(lab, check, hints[check], _count(lab, check)), sys.stdout, color=False)
    return 0


def _known(asked: str, hints: Mapping[str, tuple[str, ...]], lab: Lab) -> str:
    name = asked.removeprefix("test_")
    if name in hints:
        return name
    alike = difflib.get_close_matches(name, hints, n=3, cutoff=0.4)
    near = f" Did you mean {' or '.join(alike)}?" if alike else ""
    listed = "\n".join(f"  {each}" for each in hints)
    if not hints:
        raise SettingError(f"{lab.name} has no hints yet.")
    raise SettingError(
        f"{lab.name} has no hint for {asked!r}.{near} There are hints for:\n{listed}"
    )


def _first_failed(lab: Lab) -> str:
    result = last_result(lab)
    if result is None:
        raise SettingError(
            f"{lab.name} was not graded yet. Run `make grade LAB={lab.number}` first, or name a "
            "check: CHECK=name."
        )
    for check in result["checks"]:
        if check.get("verdict") == "failed":
            return str(check.get("name"))
    # Whose result it is: it may have been the reference, and not the student's own work.
    whose = f" {result['submission']}" if result.get("submission") else ""
    raise SettingError(
        f"No check of {lab.name} failed when you last graded{whose}. Name one for its hints: "
        "CHECK=name."
    )


def _page(lab: Lab, check: str, hints: tuple[str, ...], shown: int) -> Iterator[str]:
    command = f"make hint LAB={lab.number} CHECK={check}"
    if shown >= len(hints):
        yield f"You have seen all {len(hints)} hints for {check}. Here they are again."
        for number, hint in enumerate(hints, 1):
            yield ""
            yield f"Hint {number} of {len(hints)}"
            yield ""
            yield from _laid_out(hint)
        return
    yield f"Hint {shown + 1} of {len(hints)} for {check}"
    yield ""
    yield from _laid_out(hints[shown])
    yield ""
    if shown + 1 < len(hints):
        yield f"The next one says more: {command}"
    else:
        yield f"That was the last one. All of them again: {command}"


def _laid_out(text: str) -> Iterator[str]:
    """Markdown, wrapped: paragraphs and list items are filled, code stays as it is."""
    fenced = False
    paragraph: list[str] = []

    def filled() -> Iterator[str]:
        if paragraph:
            first = paragraph[0]
            indent = re.match(r"\s*(?:[-*]|\d+\.)?\s*", first)[0]
            inner = wrap(" ".join(each.strip() for each in paragraph)[len(indent.strip()):].strip(),
                         WIDTH - 2 - len(indent))
            for n, line in enumerate(inner):
                yield "  " + (indent if n == 0 else " " * len(indent)) + line
            paragraph.clear()

    for line in text.splitlines():
        fence = line.lstrip().startswith(("```", "~~~"))
        if fence or fenced:
            yield from filled()
            if fence:
                fenced = not fenced
            else:
                yield "      " + line
        elif not line.strip():
            yield from filled()
            yield ""
        else:
            if re.match(r"\s*(?:[-*]|\d+\.)\s", line) or line.startswith("    "):
                yield from filled()
            paragraph.append(line.rstrip())
    yield from filled()


def _count(lab: Lab, check: str) -> int:
    """How many hints for this check were shown before; counts this one."""
    path = settings.state_dir() / STATE
    state = _read_state(path)
    of_lab = state.get(lab.name)
    if not isinstance(of_lab, dict):
        of_lab = {}
    before = of_lab.get(check, 0)
    before = before if isinstance(before, int) and before >= 0 else 0
    state[lab.name] = {**of_lab, check: min(before + 1, LEVELS)}
    beside = path.with_name(f"{STATE}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a hint is worth showing even where nothing can be kept
        beside.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
    return before


def _read_state(path: Path) -> dict[str, object]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
