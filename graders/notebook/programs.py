"""Programs that are written in cells: their files, and the cell magics that make them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graders.notebook.problem import Problem

ROLES = ("worker", "api", "migrate")


@dataclass(frozen=True)
class Source:
    """A program: what it is called, and its files by their paths, the Procfile among them."""

    name: str
    files: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, role: str, name: str, code: str, more: Mapping[str, str] | None = None) -> Source:
        """The program whose code is one file of Python. Raises Problem where that is no Python."""
        file = f"{role}.py"
        _expect_python(name, code)
        files = {"Procfile": f"{role}: python -u {file}\n", file: code, **(more or {})}
        return cls(name, tuple(sorted(files.items())))

    @property
    def key(self) -> str:
        """Tells programs apart by what they are, not by what they are called."""
        return hashlib.sha256(repr(self.files).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> Path:
        """Write its files into a folder that is made."""
        for path, text in self.files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        return folder

    def changed(self, name: str, old: str, new: str) -> Source:
        """The same program under another name, with a piece of its code replaced. Raises Problem.

        `old` has to be there, in one of its files.
        """
        if not any(old in text for _, text in self.files):
            raise Problem(f"There is no “{old}” in {self.name}.")
        return Source(name, tuple((path, text.replace(old, new)) for path, text in self.files))

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True)
class Module:
    """A file of Python that several programs import by its name."""

    name: str
    code: str

    def __repr__(self) -> str:
        return f"<{self.name}.py>"


def _expect_python(name: str, code: str) -> None:
    try:
        compile(code, name, "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line} of the cell's code" if line else ""
        raise Problem(f"{name} is no Python yet: {getattr(error, 'msg', error)}{where}.") from None


def register(shell: Any) -> None:
    """Give an IPython shell the cell magics %%worker, %%api and %%migrate."""

    def magic(role: str) -> Any:
        def make(line: str, cell: str) -> None:
            name, *modules = line.split() or [""]
            if not name.isidentifier():
                raise Problem(f"%%{role} takes the name of a Python variable: %%{role} careless")
            files = {}
            for each in modules:
                module = shell.user_ns.get(each)
                if not isinstance(module, Module):
                    raise Problem(
                        f"%%{role} takes the name of a Python variable, and after it modules that "
                        f"are imported. There is no module {each} yet: run its cell first."
                    )
                files[f"{each}.py"] = module.code
            shell.user_ns[name] = Source.of(role, name, cell, files)

        make.__doc__ = (f"Make the cell a program of the role “{role}”, called as the line says. "
                        "What follows its name are modules (%%module) that it imports.")
        return make

    for role in ROLES:
        shell.register_magic_function(magic(role), "cell", role)


def register_modules(shell: Any) -> None:
    """Give an IPython shell the cell magic %%module: a file that several programs import."""

    def module(line: str, cell: str) -> None:
        """Make the cell a module, called as the line says: %%api mine web imports web."""
        name = line.strip()
        if not name.isidentifier():
            raise Problem("%%module takes the name of a Python module: %%module web")
        _expect_python(name, cell)
        shell.user_ns[name] = Module(name, cell)

    shell.register_magic_function(module, "cell", "module")
