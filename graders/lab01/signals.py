"""Who gets the signals of a container: the program itself, or a shell that keeps them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from graders.lab01.commands import is_shell
from graders.lab01.dockerfile import SHELL, Dockerfile, Instruction

# Small inits, and programs that become what they start; with options that are followed by a value.
_INITS = ("tini", "tini-static", "docker-init", "dumb-init", "catatonit")
_BECOME = {"env": "uSC", "gosu": "", "su-exec": "", "setpriv": "", "nice": "n", "stdbuf": "ioe"}

ReadScript = Callable[[str], str | None]  # the text of a file of the image, if it is known


def started(file: Dockerfile) -> tuple[list[str], list[Instruction]]:
    """The command of process 1, as Docker puts it together, and the instructions that say so."""
    entry = cmd = None
    shell = list(SHELL)
    for each in file.last.all:
        if each.name == "SHELL":
            shell = each.words_of_exec_form or shell
        elif each.name == "ENTRYPOINT":
            entry = each
            if cmd is not None and cmd not in file.last.own:
                cmd = None  # it was the base's
        elif each.name == "CMD":
            cmd = each
    told = [each for each in (entry, cmd) if each is not None and each.value not in ("", "[]")]
    words: list[str] = []
    for each in told:
        exec_form = each.words_of_exec_form
        if each is entry and exec_form is None:
            return [*shell, each.value], [each]  # CMD counts no more
        words += exec_form if exec_form is not None else [*shell, each.value]
    return words, told


def shell_between(words: list[str], read: ReadScript) -> str:
    """What of this command is a shell that stays between Docker and the program; else empty.

    A shell that replaces itself (exec), or that handles signals (trap), is no trouble.
    """
    while words:
        program, rest = posixpath.basename(words[0]), words[1:]
        if program in _INITS:
            options = list(rest[: rest.index("--")]) if "--" in rest else []
            if (program == "dumb-init" and "-c" not in options) or "-g" in options:
                return ""  # it tells the whole group
            words = rest[rest.index("--") + 1 :] if "--" in rest else _after_options(rest, "")
        elif program in _BECOME:
            words = _after_options(rest, _BECOME[program])
            if program in ("gosu", "su-exec"):
                words = words[1:]  # the user
        elif is_shell(program):
            if program == "busybox":
                rest = rest[1:]
            return _of_shell(words, rest, read)
        else:
            text = read(words[0])
            if text is None or not re.match(r"#!.*\b(?:ba|da|a|z|k)?sh\b", text):
                return ""
            if not _lets_go(text):
                return f"{words[0]} is a shell script that does not end with exec"
            if not re.search(r"\bexec\b[^\n]*\$@", text):
                return ""
            words = rest
    return ""


def _of_shell(words: list[str], rest: list[str], read: ReadScript) -> str:
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if re.fullmatch(r"-[a-z]*c[a-z]*", option) and rest:
            command = rest[0]
            return "" if _lets_go(command) else f"Docker starts {' '.join(words[:2])} \"{command}\""
        if option in ("-o", "+o"):
            rest = rest[1:]
    text = read(rest[0]) if rest else None
    if text is not None and _lets_go(text):
        return ""
    return f"Docker starts {' '.join(words)}"


def _lets_go(script: str) -> bool:
    """Whether a shell script hands over to the program (exec), or handles signals (trap)."""
    code = re.sub(r"(?m)(?:^|\s)#.*$", "", script)
    begins = r"(?:^|[;&|{(\n]|\bthen\b|\bdo\b|\belse\b|\))\s*(?:\w+=\S*\s+)*"
    # An exec that only redirects starts nothing, and an empty trap keeps the signal from everybody.
    return bool(re.search(begins + r"(?:exec\s+(?!\d*[<>])|trap\s+(?!''|\"\"))", code))


def _after_options(words: list[str], valued: str) -> list[str]:
    """What follows the options and the assignments."""
    words = list(words)
    while words and (words[0].startswith("-") or re.match(r"[A-Za-z_]\w*=", words[0])):
        option = words.pop(0)
        if option == "--":
            break
        if len(option) == 2 and option[1] in valued and words:
            words.pop(0)
    return words
