"""A Dockerfile, as far as the checks ask: its stages, their instructions, and what these say.

Reading is left to dockerfile-parse, save for what it does not know: here-documents, blank lines
inside a continued instruction, and `${NAME:-default}`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from dockerfile_parse import DockerfileParser
from dockerfile_parse.util import WordSplitter

from graders.harness.untrusted import from_json

SHELL = ("/bin/sh", "-c")
INSTRUCTIONS = frozenset({
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
    "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
})  # fmt: skip

_HEREDOC = re.compile(r"(?<!\S)\d*<<-?(['\"]?)([A-Za-z_]\w*)\1(?!\S)")
_FLAG = re.compile(r"--(?P<name>[A-Za-z][\w-]*)(?:=(?P<value>\"[^\"]*\"|'[^']*'|\S*))?(?:\s+|$)")
_FROM = re.compile(r"(?P<image>\S+)(?:\s+AS\s+(?P<name>\S+))?\s*", re.IGNORECASE)
_VARIABLE = re.compile(
    r"\\\$|\$(?:(?P<bare>[A-Za-z_]\w*)"
    r"|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-+?])(?P<word>(?:\$\{[^}]*\}|[^}])*))?\})"
)
_DIRECTIVE = re.compile(r"\s*#\s*(syntax|escape|check)\s*=\s*(\S+)", re.IGNORECASE)


class DockerfileError(Exception):
    """It is none that Docker could build; the text says why, in one sentence."""


@dataclass(frozen=True)
class Instruction:
    """One instruction. Lines are counted from 1."""

    name: str  # in capitals
    value: str  # as it was written, after its flags, continued lines joined
    flags: tuple[tuple[str, str], ...] = ()  # ("from", "build"); RUN may have several "mount"
    heredocs: tuple[str, ...] = ()
    line: int = 0
    end: int = 0

    def flag(self, name: str) -> str | None:
        """The value of a flag; None if it is not there."""
        return dict(self.flags).get(name)

    @property
    def words_of_exec_form(self) -> list[str] | None:
        """The words of the exec form (a JSON list of texts); None if it is in the shell form."""
        words = from_json(self.value)
        texts = isinstance(words, list) and all(isinstance(word, str) for word in words)
        return words if texts else None

    @property
    def words(self) -> list[str]:
        """The words of COPY, ADD and the like, of either form; here-documents are none."""
        listed = self.words_of_exec_form
        if listed is not None:
            return listed
        return [word.strip("'\"") for word in _HEREDOC.sub(" ", self.value).split()]

    @property
    def shown(self) -> str:
        """The instruction in a line, for a message."""
        flags = "".join(f"--{name}={value} " for name, value in self.flags)
        text = " ".join(f"{self.name} {flags}{self.value}".split())
        return text if len(text) <= 100 else text[:99] + "…"

    @property
    def mounts(self) -> list[dict[str, str]]:
        """What RUN --mount= says, each as a dictionary."""
        return [
            dict(part.partition("=")[::2] for part in value.split(","))
            for name, value in self.flags if name == "mount"
        ]  # fmt: skip

    @property
    def comes_from(self) -> list[str]:
        """The stages or images that it copies from or mounts."""
        named = [self.flag("from")] if self.name in ("COPY", "ADD") else []
        if self.name == "RUN":
            named += [mount.get("from") for mount in self.mounts]
        return [name for name in named if name]

    @property
    def takes(self) -> list[str]:
        """The paths of the build context that it copies or mounts; nothing of other stages."""
        if self.name in ("COPY", "ADD") and self.flag("from") is None:
            # ADD can fetch too, which is no path.
            return [w for w in self.words[:-1] if not re.match(r"[a-z+]+://|git@", w)]
        if self.name == "RUN":
            return [
                mount.get("source") or mount.get("src") or "." for mount in self.mounts
                if mount.get("type", "bind") == "bind" and "from" not in mount
            ]  # fmt: skip
        return []


@dataclass(frozen=True)
class Stage:
    """FROM and what follows. `image` is what it begins with, variables filled in."""

    index: int
    name: str | None
    image: str
    head: Instruction
    own: tuple[Instruction, ...]
    parent: Stage | None = None  # an earlier stage, where FROM names one

    @cached_property
    def all(self) -> tuple[Instruction, ...]:
        """What the image of this stage was made by: its parents' instructions, then its own."""
        if self.parent is None:
            return self.own
        triggers = tuple(_trigger(each) for each in self.parent.own if each.name == "ONBUILD")
        return self.parent.all + triggers + self.own

    @property
    def base(self) -> str:
        """The image that is not of this file which it goes back to."""
        return self.parent.base if self.parent else self.image

    @property
    def shown(self) -> str:
        """What messages call it."""
        return f"stage “{self.name}”" if self.name else f"stage {self.index}"


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile that was read."""

    text: str
    arguments: Mapping[str, str]  # before the first FROM, with their defaults
    stages: tuple[Stage, ...]
    directives: Mapping[str, int]  # "syntax" and the line it is in

    @classmethod
    def read(cls, text: str, given: Mapping[str, str] | None = None) -> Dockerfile:
        """Read its text; `given` are build arguments. Raises DockerfileError."""
        text = text.removeprefix("\ufeff")
        arguments: dict[str, str] = {}
        groups: list[tuple[Instruction, list[Instruction]]] = []
        for each in _instructions(text):
            if each.name not in INSTRUCTIONS:
                raise DockerfileError(f"Line {each.line}: {each.name[:40]} is no instruction.")
            if each.name == "FROM":
                groups.append((each, []))
            elif groups:
                groups[-1][1].append(each)
            elif each.name == "ARG":
                for name, default in _assignments(each):
                    value = expand(default or "", arguments)
                    arguments[name] = (given or {}).get(name, value)
            else:
                raise DockerfileError(f"Line {each.line}: {each.name} comes before any FROM.")
        if not groups:
            raise DockerfileError("There is no FROM in it.")
        stages: list[Stage] = []
        for head, own in groups:
            stages.append(_stage(head, tuple(own), stages, arguments))
        directives = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not (found := _DIRECTIVE.match(line)):
                break
            directives[found[1].lower()] = number
        return cls(text, arguments, tuple(stages), directives)

    @property
    def last(self) -> Stage:
        """The stage that becomes the image."""
        return self.stages[-1]

    @property
    def instructions(self) -> list[Instruction]:
        """Those of all stages, without FROM."""
        return [each for stage in self.stages for each in stage.own]

    def stage(self, named: str, before: int) -> Stage | None:
        """The stage of this name or number, if it is one of the first `before`."""
        wanted = (str(named), named.lower())
        return next((s for s in self.stages[:before] if str(s.index) in wanted or s.name in wanted),
                    None)  # fmt: skip

    def variables(self, stage: Stage, before: Instruction | None = None) -> dict[str, str]:
        """What ARG and ENV have set in a stage (before one of its instructions)."""
        chain = [stage]
        while chain[0].parent:
            chain.insert(0, chain[0].parent)
        environment: dict[str, str] = {}
        arguments: dict[str, str] = {}
        for each in chain:
            arguments = {}  # they end with their stage
            for one in each.own:
                if one is before:
                    return {**arguments, **environment}
                known = {**arguments, **environment}
                if one.name == "ENV":
                    environment |= {n: expand(v or "", known) for n, v in _assignments(one)}
                elif one.name == "ARG":
                    for name, default in _assignments(one):
                        value = self.arguments.get(name, "") if default is None else default
                        arguments[name] = expand(value, known)
        return {**arguments, **environment}

    def expanded(self, text: str, stage: Stage, before: Instruction | None = None) -> str:
        """A text of a stage with its variables filled in."""
        return expand(text, self.variables(stage, before))


def expand(text: str, variables: Mapping[str, str]) -> str:
    """A text with its variables filled in; one that is not set is empty."""

    def value(found: re.Match[str]) -> str:
        name = found["bare"] or found["name"]
        if name is None:
            return "$"  # it was escaped
        here = variables.get(name)
        if (found["how"] or "").endswith("-") and (not here if ":" in found["how"] else
                                                   here is None):
            return expand(found["word"], variables)
        if (found["how"] or "").endswith("+"):
            return expand(found["word"], variables) if here else ""
        return here or ""

    return _VARIABLE.sub(value, text)


# Reading


def _instructions(text: str) -> Iterator[Instruction]:
    """The instructions of a text, in order."""
    plain, bodies, starts, ends = _without_heredocs(text)
    parser = DockerfileParser(fileobj=io.BytesIO(plain.encode()), env_replace=False)
    for each in parser.structure:
        if each["instruction"] == "COMMENT":
            continue
        value, flags = each["value"].strip(), []
        while each["instruction"] in ("FROM", "COPY", "ADD", "RUN", "HEALTHCHECK"):
            if not (found := _FLAG.match(value)):
                break
            flags.append((found["name"].lower(), (found["value"] or "").strip("'\"")))
            value = value[found.end() :]
        start, end = each["startline"], each["endline"]
        yield Instruction(
            each["instruction"], value, tuple(flags), bodies.get(end, ()),
            starts[start], ends[end],
        )  # fmt: skip


def _without_heredocs(
    text: str,
) -> tuple[str, dict[int, tuple[str, ...]], list[int], list[int]]:
    """The text without here-documents and without blank lines in continued instructions.

    Also the here-documents, by the number (from 0) of the line that they belong to, and for each
    line that is left where it began and ended in the whole text.
    """
    lines = text.splitlines()
    escape = "\\"
    for line in lines:
        found = _DIRECTIVE.match(line)
        if not found:
            break
        if found[1].lower() == "escape":
            escape = found[2]
    kept: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    bodies: dict[int, tuple[str, ...]] = {}
    said = ""  # the instruction so far
    at = 0
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        comment = line.lstrip().startswith("#")
        if said and not line.strip():
            continue  # Docker passes over it
        kept.append(line)
        starts.append(number)
        ends.append(number)
        if comment:
            continue
        said += " " + line.rstrip()
        if said.endswith(escape):
            said = said[: -len(escape)]
            if any(rest.strip() and not rest.lstrip().startswith("#") for rest in lines[at:]):
                continue
            kept[-1] = line.rstrip()[: -len(escape)]  # nothing follows
        if re.match(r"\s*(RUN|COPY|ADD)\s", said, re.IGNORECASE):
            found = []
            for _, word in _HEREDOC.findall(said):
                body = []
                while at < len(lines) and lines[at].lstrip("\t") != word:
                    body.append(lines[at])
                    at += 1
                at += 1
                found.append("\n".join(body))
            if found:
                bodies[len(kept) - 1] = tuple(found)
                ends[-1] = min(at, len(lines))
        said = ""
    return "\n".join(kept) + "\n", bodies, starts, ends


def _stage(
    head: Instruction, own: tuple[Instruction, ...], before: list[Stage],
    arguments: Mapping[str, str],
) -> Stage:
    found = _FROM.fullmatch(head.value)
    image = expand(found["image"], arguments).strip("'\"") if found else ""
    if not image:
        raise DockerfileError(f"Line {head.line}: “{head.shown}” names no image.")
    name = found["name"].lower() if found["name"] else None
    parent = next((s for s in before if s.name and s.name == image.lower()), None)
    return Stage(len(before), name, image, head, own, parent)


def _trigger(instruction: Instruction) -> Instruction:
    """What ONBUILD leaves for those who build upon a stage."""
    name, _, value = instruction.value.partition(" ")
    return Instruction(name.upper(), value.strip(), (), instruction.heredocs,
                       instruction.line, instruction.end)  # fmt: skip


def _assignments(instruction: Instruction) -> list[tuple[str, str | None]]:
    """What ENV and ARG set: names, and values (None where there is none)."""
    words = list(WordSplitter(instruction.value).split(dequote=False))
    if instruction.name == "ENV" and words and "=" not in words[0]:  # the old ENV name value
        return [(words[0], WordSplitter(instruction.value[len(words[0]) :].strip()).dequote())]
    pairs = (word.partition("=") for word in words)
    return [(name, WordSplitter(raw).dequote() if given else None) for name, given, raw in pairs]
