"""Where things are, what a lab is, and what the user asked for.

The Makefile hands its variables over in the environment (`LAB`, `SRC`, `CHECK`, …), so that no
shell ever splits them. An empty variable is as good as none. Whatever cannot be used is a
`SettingError`: one sentence, to be printed before exit status 2.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

SERVICES = ("auto", "containers", "embedded", "external")
ORIGINAL = "starter.json"  # in the folder of a lab's grader: its starter as it came
EXIT_USAGE = 2
EXIT_STOPPED = 130  # by Ctrl-C, as shells have it


class SettingError(Exception):
    """What the user asked for cannot be done; `str(error)` says why, in one or two sentences."""


def state_dir() -> Path:
    """The kit's own folder for what it remembers (hints shown, servers up); made when missing."""
    folder = ROOT / ".worker-labs"
    folder.mkdir(exist_ok=True)
    return folder


SHARE = "WORKER_LABS_CORES"
CGROUP = Path("/sys/fs/cgroup")  # of a container: what it may use, as cgroups(7) version 2 tells


def cores() -> int:
    """How many cores this run may use: those of this machine, or fewer in a container."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 2
    quota = _quota()
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def is_limited() -> bool:
    """Whether a container allows this run less of the processor than the machine has."""
    return _quota() is not None


def _quota() -> float | None:
    """How many cores a container allows; None if it does not say, or has no limit."""
    quota, _, period = _of_cgroup("cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        return int(quota) / int(period)
    return None


def memory() -> int:
    """Bytes of memory that are free for this run: of this machine, or less in a container."""
    free = psutil.virtual_memory().available
    most, used = _of_cgroup("memory.max"), _of_cgroup("memory.current")
    if most.isdigit() and used.isdigit():
        cached = re.search(r"^inactive_file (\d+)$", _of_cgroup("memory.stat"), re.MULTILINE)
        given_back = int(cached[1]) if cached else 0  # as soon as somebody wants it
        free = min(free, max(0, int(most) - int(used) + given_back))
    return free


def _of_cgroup(name: str) -> str:
    try:
        return (CGROUP / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def per_core(count: float) -> int:
    """So many for each core that this run may keep busy, and at least one.

    Those are the cores of this machine, or the share of them that WORKER_LABS_CORES says (0.5)
    where several submissions are graded side by side.
    """
    return max(1, round(count * _share()))


def of_machine(count: float) -> int:
    """This run's share of so many for the whole machine, and at least one."""
    return max(1, round(count * _share() / cores()))


def at_most(count: float) -> int:
    """What `per_core` can become, should all cores be this run's one day."""
    return max(1, round(count * max(_share(), cores())))


def _share() -> float:
    try:
        share = float(os.environ.get(SHARE, ""))
    except ValueError:
        share = 0.0
    return share if 0 < share <= 1000 else cores()


# Labs


@dataclass(frozen=True)
class Lab:
    """One lab, as its `lab.toml` describes it. Its name is the same in every room."""

    name: str  # "lab03"
    title: str
    hours: str = ""  # "3 to 4"
    needs: tuple[str, ...] = ()  # labs to have done before
    prerequisites: str = ""
    services: tuple[str, ...] = ()  # "postgres", "redis"
    package: str = "worker"  # the package that a student fills in
    graded: tuple[str, ...] = ("worker",)  # roles without which nothing can be graded
    exercises: dict[str, str] = field(default_factory=dict)  # "3a" -> its title, in order

    @property
    def number(self) -> str:
        """"03"."""
        return self.name.removeprefix("lab")

    @property
    def folder(self) -> Path:
        """What a student reads: handout, hints, lab.toml, schema.sql."""
        return ROOT / "labs" / self.name

    @property
    def starter(self) -> Path:
        """What a student edits."""
        return ROOT / "starter" / self.name

    @property
    def grader(self) -> Path:
        """The checks."""
        return ROOT / "graders" / self.name

    @property
    def reports(self) -> Path:
        """Where results of this lab are written."""
        return ROOT / "reports" / self.name

    @property
    def schema_sql(self) -> str:
        """The text of schema.sql; empty for a lab without PostgreSQL."""
        path = self.folder / "schema.sql"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of this lab's programs, as its starter's Procfile came: "worker", "api", …"""
        try:
            kept = (self.grader / ORIGINAL).read_text(encoding="utf-8")
            procfile = str(json.loads(kept)["Procfile"])
        except (OSError, ValueError, KeyError, TypeError):  # while a lab is being made
            path, procfile = self.starter / "Procfile", "worker:"
            if path.is_file():
                procfile = path.read_text(encoding="utf-8", errors="replace")
        return tuple(re.findall(r"^\s*([a-z]+)\s*:", procfile, re.MULTILINE))

    @property
    def migrates(self) -> bool:
        """Whether the student's own migrations make the tables."""
        return "migrate" in self.roles

    @property
    def api_port(self) -> int:
        """The port on which this lab's API listens unless PORT says another."""
        return 8080 if "postgres" in self.services else 8000


def labs() -> list[Lab]:
    """All labs of this kit, in order."""
    return [_read_lab(path) for path in sorted(ROOT.glob("labs/lab*/lab.toml"))]


def lab(name: str) -> Lab:
    """The lab of this name, in any of its spellings. Raises SettingError."""
    return _read_lab(ROOT / "labs" / lab_name(name) / "lab.toml")


def lab_name(text: str) -> str:
    """"lab03" for `3`, `03`, `lab3`, `LAB03`. Raises SettingError, listing the labs."""
    number = re.fullmatch(r"(?:lab)?[-_ ]?0*(\d{1,2})", text.strip(), re.IGNORECASE)
    name = f"lab{int(number[1]):02d}" if number else ""
    if name and (ROOT / "labs" / name / "lab.toml").is_file():
        return name
    known = "\n".join(f"  LAB={each.number}  {each.title}" for each in labs())
    asked = f"There is no lab {text.strip()!r}." if text.strip() else "Say which lab, as in LAB=03."
    raise SettingError(f"{asked} The labs are:\n{known}")


def _read_lab(path: Path) -> Lab:
    with path.open("rb") as file:
        told = tomllib.load(file)
    return Lab(
        name=path.parent.name,
        title=told["title"],
        hours=str(told.get("hours", "")),
        needs=tuple(told.get("needs", ())),
        prerequisites=told.get("prerequisites", ""),
        services=tuple(told.get("services", ())),
        package=told.get("package", "worker"),
        graded=tuple(told.get("roles", ("worker",))),
        exercises=dict(told.get("exercises", {})),
    )


# What the user asked for


@dataclass(frozen=True)
class Settings:
    """The variables of the Makefile, read and checked."""

    lab: Lab | None = None
    src: Path | None = None  # as the user named it; None: the lab's starter
    checks: tuple[str, ...] = ()  # CHECK=one or CHECK=one,two; () for all
    services: str = "auto"
    patience: float = 1.0  # every bound is multiplied by this
    runs: int = 1
    verbose: bool = False
    n: int | None = None  # workers of `make run`, tasks of `make tasks`
    step: str | None = None
    api: str | None = None  # API=folder: whose API a check takes
    api_url: str | None = None  # API=http://…: where `make tasks` finds one
    port: int | None = None
    down: bool = False  # of `make migrate`
    seed: int = 0  # of all that a run draws at random

    @property
    def the_lab(self) -> Lab:
        """The lab; SettingError when none was named."""
        if self.lab is None:
            lab_name("")  # raises, listing the labs
            raise AssertionError
        return self.lab

    @property
    def submission(self) -> Path:
        """The folder to grade or to run: SRC, or the lab's starter. SettingError if missing."""
        path = self.src or self.the_lab.starter
        if not self.src and Path.cwd() == ROOT:
            path = path.relative_to(ROOT)  # as a user would name it
        if not path.exists():
            what = f"SRC={path}" if self.src else f"starter/{self.the_lab.name}"
            raise SettingError(f"There is no folder {what} (seen from {Path.cwd()}).")
        if not path.is_dir():
            raise SettingError(f"SRC={path} is a file; name the folder that holds the Procfile.")
        return path


def read(env: Mapping[str, str] | None = None) -> Settings:
    """The settings in the environment. Raises SettingError at the first that cannot be used."""
    env = os.environ if env is None else env

    def text(name: str) -> str | None:
        return env.get(name, "").strip() or None

    named = text("LAB")
    src = env.get("SRC", "")  # not stripped: a folder's name may begin or end with a space
    return Settings(
        lab=lab(named) if named else None,
        src=Path(src).expanduser() if src.strip() else None,
        checks=tuple(re.split(r"[\s,]+", text("CHECK") or "")) if text("CHECK") else (),
        services=_one_of("SERVICES", text("SERVICES") or "auto", SERVICES),
        patience=_factor("PATIENCE", text("PATIENCE") or "1"),
        runs=whole("RUNS", text("RUNS") or "1", 1, 100_000),
        verbose=(text("VERBOSE") or "0").lower() not in ("0", "no", "false", "off"),
        n=whole("N", text("N"), 1, 10_000) if text("N") else None,
        step=_step(text("STEP")),
        api=None if _is_address(text("API")) else _folder("API", text("API")),
        api_url=text("API") if _is_address(text("API")) else None,
        port=whole("PORT", text("PORT"), 1, 65_535) if text("PORT") else None,
        down=switch("DOWN", text("DOWN") or "0"),
        seed=whole("SEED", text("SEED") or "0", 0, 2**32 - 1),
    )


def _step(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\d{1,3}[a-h]?", value):
        raise SettingError(f"STEP={value} names no moment; it is a number like 7, or 7b.")
    return value


def switch(name: str, value: str) -> bool:
    """On or off. Strict: what is switched may throw data away."""
    if value.lower() in ("1", "yes", "true", "on"):
        return True
    if value.lower() in ("0", "no", "false", "off"):
        return False
    raise SettingError(f"{name}={value} is not known; use {name}=1 or {name}=0.")


def _is_address(value: str | None) -> bool:
    return value is not None and "://" in value


def _folder(name: str, value: str | None) -> str | None:
    if value is not None and not Path(value).expanduser().is_dir():
        raise SettingError(f"There is no folder {name}={value} (seen from {Path.cwd()}).")
    return str(Path(value).expanduser()) if value is not None else None


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value.lower() not in allowed:
        raise SettingError(f"{name}={value} is not known; use one of {', '.join(allowed)}.")
    return value.lower()


def whole(name: str, value: str | None, least: int, most: int) -> int:
    """A variable's value as a whole number in this range. Raises SettingError."""
    try:
        number = int(value or "")
    except ValueError:
        raise SettingError(f"{name}={value} is not a whole number.") from None
    if not least <= number <= most:
        raise SettingError(f"{name}={value} is out of range; use {least} to {most}.")
    return number


def _factor(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise SettingError(f"{name}={value} is not a number; try {name}=2.") from None
    if not (math.isfinite(number) and 0.1 <= number <= 100):
        raise SettingError(f"{name}={value} is out of range; use 0.1 to 100.")
    return number
