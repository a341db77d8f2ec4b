"""What the RUN instructions of a Dockerfile run: simple commands, and the packages they install."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from graders.harness.report.text import cut
from graders.lab01.dockerfile import Instruction, expand

# What packages are built or installed with; the program does not import them.
TOOLS = frozenset({
    "build", "flit", "flit-core", "hatch", "hatchling", "pdm", "pex", "pip", "pip-tools", "pipenv",
    "poetry", "poetry-core", "setuptools", "shiv", "uv", "virtualenv", "wheel",
})  # fmt: skip

# Installers of other kinds, by their first words; what they install stands in a file of theirs.
_OTHERS = (
    "uv sync", "poetry install", "poetry sync", "pipenv install", "pipenv sync", "pdm install",
    "pdm sync", "conda install", "conda env", "mamba install", "mamba env", "npm ci", "npm install",
    "npm i", "yarn install", "pnpm install", "go mod", "go build", "cargo build", "cargo fetch",
    "cargo install", "bundle install", "mvn", "gradle", "dotnet restore", "dotnet publish",
)  # fmt: skip
_BEFORE = frozenset({
    "if", "then", "else", "elif", "while", "until", "do", "for", "{", "!", "exec", "command", "env",
    "time", "sudo", "nice",
})  # fmt: skip
# pip's options that are followed by a value.
_VALUED = frozenset({
    "-r", "--requirement", "-c", "--constraint", "-t", "--target", "--prefix", "--root", "-i",
    "--index-url", "--extra-index-url", "-f", "--find-links", "-d", "--dest", "-w", "--wheel-dir",
    "--cache-dir", "--python", "-p", "--platform", "--python-version", "--implementation", "--abi",
    "--trusted-host", "--timeout", "--default-timeout", "--retries", "--proxy", "--cert",
    "--client-cert", "--progress-bar", "--root-user-action", "--only-binary", "--no-binary",
    "--src", "-e", "--editable", "-C", "--config-settings", "--report", "--log", "--exists-action",
    "--upgrade-strategy", "--group", "--use-feature", "--use-deprecated",
})  # fmt: skip
_COMPILER = re.compile(
    r"(?:(?:gcc|g\+\+|clang|gfortran)(?:-\d+)?|build-essential|build-base|cmake|make|cargo|rustc?"
    r"|golang|autoconf|automake|ninja-build|\S+-dev|\S+-devel)(?:[=:<>~]\S*)?"
)
_PACKAGE_MANAGERS = frozenset({"apt-get", "apt", "aptitude", "apk", "dnf", "microdnf", "yum"})
_BUILDERS = frozenset({"gcc", "g++", "cc", "c++", "clang", "make", "cmake", "rustc"})


@dataclass(frozen=True)
class Install:
    """A command that installs packages, or builds or fetches them for that."""

    words: tuple[str, ...]
    named: tuple[str, ...] = ()  # requirements in the command itself
    files: tuple[str, ...] = ()  # lists that it names (-r)
    local: tuple[str, ...] = ()  # folders, wheels and the like that it names
    from_folder: bool = False  # it finds packages in a folder (--no-index, --find-links)
    by_lock_file: bool = False  # uv sync, npm ci …

    @property
    def shown(self) -> str:
        """The command in a line, for a message."""
        return cut(" ".join(self.words), 80)

    @property
    def dependencies(self) -> bool:
        """Whether it installs what the program needs, and not only tools or what was built."""
        return bool(self.files or self.by_lock_file or self.packages)

    @property
    def packages(self) -> list[str]:
        """The requirements it names, tools left out."""
        return [text for text in self.named if _name(text) not in TOOLS]

    @property
    def fetches(self) -> bool:
        """Whether it gets packages from an index, and so may build them."""
        return self.by_lock_file or bool((self.files or self.packages) and not self.from_folder)


def commands(run: Instruction, variables: Mapping[str, str]) -> list[list[str]]:
    """The simple commands of a RUN: their words, without assignments and redirections."""
    words = run.words_of_exec_form
    if words is not None:
        if len(words) > 2 and is_shell(words[0]) and words[1].startswith("-"):
            return list(_simple(words[2], variables))
        return [words] if words else []
    return list(_simple("\n".join([run.value, *run.heredocs]), variables))


def is_shell(program: str) -> bool:
    """Whether a program is a shell."""
    return PurePosixPath(program).name in ("sh", "bash", "dash", "ash", "zsh", "ksh", "busybox")


def installs(run: Instruction, variables: Mapping[str, str]) -> list[Install]:
    """The commands of a RUN that install packages."""
    found = []
    for words in commands(run, variables):
        program = PurePosixPath(words[0]).name
        pip = _of_pip(words)
        if pip is not None:
            found.append(_pip(words, pip, variables))
        elif any(f"{program} {' '.join(words[1:])} ".startswith(f"{o} ") for o in _OTHERS) or (
            program == "yarn" and len(words) == 1
        ):
            found.append(Install(tuple(words), by_lock_file=True))
    return found


def compilers(run: Instruction, variables: Mapping[str, str]) -> list[str]:
    """The compilers and headers that a RUN installs and leaves there, and compilers it calls."""
    found: list[str] = []
    removes = False
    for words in commands(run, variables):
        program = PurePosixPath(words[0]).name
        if program in _BUILDERS:
            found.append(program)
        if program in _PACKAGE_MANAGERS:
            removes |= any(w in ("purge", "remove", "autoremove", "del", "erase") for w in words)
            if any(word in ("install", "add", "groupinstall") for word in words):
                found += [word for word in words[1:] if _COMPILER.fullmatch(word)]
    return [] if removes else found


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9][\w.-]*", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _of_pip(words: list[str]) -> list[str] | None:
    """What follows `pip install` or the like in a command; None if it is another."""
    program, rest = PurePosixPath(words[0]).name, words[1:]
    if re.fullmatch(r"(?:python|pypy)[\d.]*", program) and "-m" in rest[:-1]:
        at = rest.index("-m")
        program, rest = rest[at + 1], rest[at + 2 :]
    if program == "uv" and "pip" in rest[:3]:
        program, rest = "pip", rest[rest.index("pip") + 1 :]
    if not re.fullmatch(r"pip[\d.]*", program):
        return None
    at = next((n for n, w in enumerate(rest) if w in ("install", "wheel", "download", "sync")), -1)
    return None if at < 0 else rest[at:]


def _pip(words: list[str], rest: list[str], variables: Mapping[str, str]) -> Install:
    named, files, local = [], [], []
    from_folder = bool(variables.get("PIP_NO_INDEX") or variables.get("PIP_FIND_LINKS"))
    todo = list(rest[1:])
    while todo:
        word = todo.pop(0)
        option, given, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if re.fullmatch(r"-[rcef].+", word):  # -rrequirements.txt
            option, given, value = word[:2], "=", word[2:]
        if option.startswith("-"):
            if option in _VALUED and not given:
                value = todo.pop(0) if todo else ""
            if option in ("-r", "--requirement"):
                files.append(value)
            elif option in ("-e", "--editable"):
                local.append(value)
            elif option in ("-f", "--find-links", "--no-index"):
                from_folder = True
        elif rest[0] == "sync":
            files.append(word)
        elif re.match(r"\.|/|~|file:", word) or ("/" in word and "://" not in word) \
                or (word.endswith((".whl", ".zip", ".gz")) and "://" not in word):
            local.append(word)
        else:
            named.append(word)
    return Install(tuple(words), tuple(named), tuple(files), tuple(local), from_folder)


def _simple(text: str, variables: Mapping[str, str]) -> Iterator[list[str]]:
    """The simple commands of a shell's text, variables filled in as far as they are known."""
    for part in _parts(text):
        # What is filled in may be several words, or none.
        filled = ([raw] if "$" not in raw else expand(raw, variables).split() for raw in part)
        words = [word for each in filled for word in each if word]
        while words and (words[0] in _BEFORE or re.match(r"[A-Za-z_]\w*=", words[0])):
            words.pop(0)
        if words:
            yield words


def _parts(text: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    redirects = False
    try:
        for token in lexer:
            if set(token) <= set(";&|()"):
                yield words
                words, redirects = [], False
            elif set(token) <= set("<>&|"):
                redirects = True  # what follows is a file
                if words and words[-1].isdigit():
                    words.pop()  # 2>
            elif redirects:
                redirects = False
            else:
                words.append(token)
    except ValueError:  # a quote that is not closed; the shell will say so
        words += lexer.token.split()
    yield words
