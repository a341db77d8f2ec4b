"""`make wheels`: all packages of the kit in one folder, so that a class sets up without a network.

The folder is .wheelhouse; graders/setup.sh looks into it first. It gets what a set-up of the base
and of the notebooks installs, in the versions of graders/constraints.txt: for this machine and this
Python always, and for those that PLATFORMS and PYTHONS name.

pip fetches, but who needs what is followed here, from one wheel's metadata to the next. pip can
fetch for another machine (`--platform`, `--python-version`), yet it asks the conditions of
dependencies (`; platform_system == "Darwin"`) of the Python that it runs in: on Linux it would
leave out what only macOS needs. Conditions on a patch release are taken as met by any: another
machine's Python 3.11 may be an older one than this.

A wheel gets its name here only when it is whole: pip writes into a folder beside, and what it wrote
is renamed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from pathlib import Path

from packaging import tags
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from graders.classes.alone import alone_in
from graders.harness.settings import ROOT, SettingError

FOLDER = ".wheelhouse"
EXTRAS = ("notebook",)
CONSTRAINTS = Path("graders", "constraints.txt")
NAMES = ("linux-x86_64", "linux-arm64", "macos-arm64", "macos-x86_64")
# The newest systems that a wheel may ask for where only a name is given. The oldest wheel that
# there is comes first, so a package is taken that asks for so much only if there is no other.
NEWEST_GLIBC = (2, 35)  # Ubuntu 22.04, Debian 12
NEWEST_MACOS = (14, 0)
_OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_LIBRARY = {"manylinux": "glibc", "musllinux": "musl", "macosx": "macOS"}
# What would send pip's files elsewhere or change what is asked for.
_NOT_FOR_PIP = {
    "PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT",
    "PIP_USER", "PIP_DEST", "PIP_PLATFORM", "PIP_PYTHON_VERSION", "PIP_IMPLEMENTATION", "PIP_ABI",
    "PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_LOG",
}  # fmt: skip
_NO_NETWORK = re.compile(
    r"Max retries exceeded|NewConnectionError|name resolution|nodename nor servname|timed out"
    r"|Connection (?:refused|reset|aborted)|Network is unreachable|ProxyError|SSLError"
)
_NOT_FOUND = re.compile(
    r"(?:No matching distribution found for |Package '(?=.* requires a different Python))"
    r"([A-Za-z0-9][A-Za-z0-9._-]*)"
)


# For whom


@dataclass(frozen=True)
class Platform:
    """A kind of machine, as wheels' names have it."""

    name: str  # as it was asked for
    kind: str  # "manylinux", "musllinux", "macosx"
    machine: str  # "x86_64", "aarch64"; "arm64" on macOS
    newest: tuple[int, int]  # of the C library or of macOS

    @property
    def for_pip(self) -> list[str]:
        """Their names, the oldest first: what runs on old systems runs on new ones, too."""
        end, machine = self.newest, self.machine
        if self.kind == "macosx":
            first = 10 if end < (11, 0) else 11
            versions = [(10, end[1])] if first == 10 else [(n, 0) for n in range(11, end[0])]
            return [f"macosx_{a}_{b}_{machine}" for a, b in dict.fromkeys([*versions, end])]
        names = []
        for minor in range(0 if self.kind == "musllinux" else 5, end[1] + 1):
            names += [f"{old}_{machine}" for old, at in _OLD_MANYLINUX.items()
                      if self.kind == "manylinux" and at == (end[0], minor)]  # fmt: skip
            names.append(f"{self.kind}_{end[0]}_{minor}_{machine}")
        return names

    @property
    def for_tags(self) -> list[str]:
        """The same with all that they stand for, as pip expands them."""
        if self.kind != "macosx":
            return self.for_pip
        found: list[str] = []
        for name in self.for_pip:
            _, major, minor, _ = name.split("_", 3)
            found += tags.mac_platforms((int(major), int(minor)), self.machine)
        return list(dict.fromkeys(found))

    @property
    def markers(self) -> dict[str, str]:
        """What conditions of dependencies may ask of it."""
        darwin = self.kind == "macosx"
        return {
            "os_name": "posix", "sys_platform": "darwin" if darwin else "linux",
            "platform_system": "Darwin" if darwin else "Linux", "platform_machine": self.machine,
            "platform_release": "", "platform_version": "",
        }  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One Python on one kind of machine; this machine if there is no platform."""

    python: tuple[int, int]
    platform: Platform | None = None

    @property
    def native(self) -> bool:
        """Whether this very Python can install it."""
        return self.platform is None and self.python == sys.version_info[:2]

    @property
    def release(self) -> str:
        """A patch release of it: the one that runs here, else a late one."""
        micro = sys.version_info[2] if self.python == sys.version_info[:2] else 99
        return f"{self.python[0]}.{self.python[1]}.{micro}"

    def __str__(self) -> str:
        where = self.platform.name if self.platform else "this machine"
        return f"Python {self.python[0]}.{self.python[1]} on {where}"

    def for_pip(self) -> list[str]:
        """pip's options to fetch for it."""
        if self.native and not _is_common():
            return []
        # A version without a patch release would be the first one, for which not all is made.
        options = ["--implementation=cp", f"--python-version={self.release}"]
        named = self.platform.for_pip if self.platform else _names_here()
        return options + [f"--platform={name}" for name in named]

    def tags(self) -> frozenset[Tag]:
        """The tags of wheels that can be installed there."""
        if self.native:
            return frozenset(tags.sys_tags())
        platforms = self.platform.for_tags if self.platform else list(tags.platform_tags())
        interpreter = f"cp{self.python[0]}{self.python[1]}"
        abis = [interpreter]
        return frozenset(tags.cpython_tags(self.python, abis, platforms)).union(
            tags.compatible_tags(self.python, interpreter, platforms)
        )

    def environments(self) -> list[dict[str, str]]:
        """What conditions may ask, once for the first patch release and once for a late one."""
        python = f"{self.python[0]}.{self.python[1]}"
        base = {**default_environment(), "python_version": python}
        if self.platform:
            base |= self.platform.markers
        if not self.native:
            base |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
        return [
            {**base, "python_full_version": full, "implementation_version": full}
            for full in (f"{python}.0", f"{python}.99")
        ]


def _is_common() -> bool:
    """Whether this is the Python that pip means by a version alone."""
    plain = sys.implementation.name == "cpython"
    return plain and not sysconfig.get_config_var("Py_GIL_DISABLED")


def _names_here() -> list[str]:
    """pip's names for this machine, the oldest first: the folder is to serve others like it."""
    names = list(tags.platform_tags())
    try:
        oldest_first = platform(names[0]).for_pip
    except SettingError:  # a system that has no versions in its name
        return names
    return list(dict.fromkeys([*oldest_first, *names]))


def targets(env: Mapping[str, str], least: SpecifierSet) -> list[Target]:
    """This machine with this Python, and what PLATFORMS and PYTHONS name. Raises SettingError."""
    here = sys.version_info[:2]
    pythons = [_python(word, least) for word in _words(env, "PYTHONS")] or [here]
    platforms = [platform(word) for word in _words(env, "PLATFORMS")] or [None]
    every = [Target(here), *(Target(python, p) for p in platforms for python in pythons)]
    return list(dict.fromkeys(every))


def platform(word: str) -> Platform:
    """A platform by one of NAMES, or by pip's name for it. Raises SettingError."""
    plain = word.lower().replace("aarch64", "arm64").replace("amd64", "x86_64")
    if plain in NAMES:
        system, machine = plain.split("-")
        if system == "macos":
            return Platform(plain, "macosx", machine, NEWEST_MACOS)
        machine = "aarch64" if machine == "arm64" else machine
        return Platform(plain, "manylinux", machine, NEWEST_GLIBC)
    found = re.fullmatch(r"(manylinux|musllinux|macosx)_(\d{1,2})_(\d{1,2})_(\w+)", word)
    if found:
        kind, newest = found[1], (int(found[2]), int(found[3]))
        return Platform(word, kind, found[4], newest)
    found = re.fullmatch(r"(manylinux\d+)_(\w+)", word)
    if found and found[1] in _OLD_MANYLINUX:
        return Platform(word, "manylinux", found[2], _OLD_MANYLINUX[found[1]])
    if plain.startswith("win"):
        raise SettingError(
            f"PLATFORMS={word}: on Windows the kit runs inside WSL, which is linux-x86_64."
        )
    raise SettingError(
        f"PLATFORMS={word} is no platform that is known here; take {', '.join(NAMES)},"
        " or pip's own name, as in manylinux_2_28_x86_64."
    )


def _python(word: str, least: SpecifierSet) -> tuple[int, int]:
    found = re.fullmatch(r"(3)\.(\d{1,2})", word)
    if not found:
        raise SettingError(f"PYTHONS={word} is no version of Python, as 3.12 is.")
    if not least.contains(f"{word}.99"):
        raise SettingError(f"PYTHONS={word} is too old: the kit needs Python {least}.")
    return int(found[1]), int(found[2])


def _words(env: Mapping[str, str], name: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"[^\s,]+", env.get(name, ""))))


# What is needed


@dataclass(frozen=True)
class Needs:
    """What a set-up asks pip for."""

    roots: tuple[Requirement, ...]
    constraints: tuple[Requirement, ...]
    pythons: SpecifierSet

    @classmethod
    def read(cls, root: Path) -> Needs:
        """From pyproject.toml and graders/constraints.txt. Raises SettingError."""
        try:
            project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
            project = project["project"]
            texts = list(project["dependencies"])
            for extra in EXTRAS:
                texts += project["optional-dependencies"][extra]
            lines = (root / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
            lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
            return cls(
                tuple(map(Requirement, texts)),
                tuple(Requirement(line) for line in lines if line),
                SpecifierSet(project.get("requires-python", "")),
            )
        except (OSError, ValueError, KeyError, InvalidRequirement) as error:
            raise SettingError(f"What the kit needs cannot be read: {error!r}.") from None

    def pin(self, name: str, environments: Iterable[Mapping[str, str]]) -> SpecifierSet:
        """What constraints.txt says of a package there; an empty set if it says nothing."""
        found = SpecifierSet()
        for each in self.constraints:
            if canonicalize_name(each.name) == name and _applies(each, environments, {""}):
                found &= each.specifier
        return found


def _applies(
    need: Requirement, environments: Iterable[Mapping[str, str]], extras: Iterable[str]
) -> bool:
    return need.marker is None or any(
        need.marker.evaluate({**environment, "extra": extra})
        for environment in environments for extra in extras or {""}
    )  # fmt: skip


def _pinned(specifier: SpecifierSet) -> Version | None:
    """The one version that is left; None if there are more."""
    exact = (each.version for each in specifier if each.operator == "==")
    return next((Version(each) for each in exact if not each.endswith(".*")), None)


# The folder


@dataclass(frozen=True)
class Wheel:
    """One wheel in the folder."""

    path: Path
    name: str
    version: Version
    tags: frozenset[Tag]
    requires: tuple[Requirement, ...]
    pythons: SpecifierSet

    @classmethod
    def read(cls, path: Path) -> Wheel | None:
        """None if it is none, or is damaged: each file's checksum is looked at."""
        try:
            name, version, _, fit = parse_wheel_filename(path.name)
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return None
                (inside,) = (n for n in archive.namelist()
                             if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))  # fmt: skip
                told = BytesHeaderParser().parsebytes(archive.read(inside))
            needs = tuple(Requirement(each) for each in told.get_all("Requires-Dist", ()))
            pythons = SpecifierSet(told.get("Requires-Python", ""))
        except (
            InvalidWheelFilename, InvalidRequirement, zipfile.BadZipFile, zlib.error, EOFError,
            OSError, ValueError, NotImplementedError, RuntimeError,
        ):  # fmt: skip
            return None
        return cls(path, name, version, fit, needs, pythons)

    def asks_for(self, fit: frozenset[Tag]) -> tuple[str, tuple[int, int]] | None:
        """The oldest system that it runs on: ("glibc", (2, 28)); None if any will do."""
        found = [_system(tag.platform) for tag in self.tags & fit]
        return min(filter(None, found), default=None) if all(found) else None


def _system(name: str) -> tuple[str, tuple[int, int]] | None:
    for old, version in _OLD_MANYLINUX.items():
        if name.startswith(f"{old}_"):
            return "glibc", version
    found = re.match(r"(manylinux|musllinux|macosx)_(\d+)_(\d+)_", name)
    return (_LIBRARY[found[1]], (int(found[2]), int(found[3]))) if found else None


@dataclass
class House:
    """The folder, and what has happened to it in this run."""

    root: Path
    needs: Needs
    wheels: list[Wheel] = field(default_factory=list)
    fetched: set[str] = field(default_factory=set)  # names of files
    missing: list[tuple[str, Target]] = field(default_factory=list)
    loose: dict[str, str] = field(default_factory=dict)  # package without a pin -> its version
    served: dict[Target, list[Wheel]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the wheels are."""
        return self.root / FOLDER

    def open(self) -> None:
        """Look what is there; damaged wheels and what a killed run left are removed."""
        for left in self.folder.glob(".fetching-*"):
            shutil.rmtree(left, ignore_errors=True)
        for path in sorted(self.folder.glob("*.whl")):
            if wheel := Wheel.read(path):
                self.wheels.append(wheel)
            else:
                print(f"{path.name} is damaged, and is removed.", flush=True)
                path.unlink()

    def fill(self, target: Target) -> None:
        """Follow who needs what there, and fetch what is not in the folder. Raises SettingError."""
        fit, environments = target.tags(), target.environments()
        got: dict[str, Wheel] = {}
        asked: dict[str, SpecifierSet] = {}
        absent: set[str] = set()
        seen: set[tuple[str, str]] = set()
        todo = [("the kit", each) for each in self.needs.roots
                if _applies(each, environments, {""})]  # fmt: skip
        while todo:
            for who, need in todo:
                name = canonicalize_name(need.name)
                pin = self.needs.pin(name, environments)
                asked[name] = asked.get(name, pin) & need.specifier
                version = got[name].version if name in got else _pinned(pin)
                if version and not need.specifier.contains(version, prereleases=True):
                    raise SettingError(
                        f"{who} needs {need.name}{need.specifier}, but {CONSTRAINTS} leads to"
                        f" {version}."
                    )
            new = {canonicalize_name(need.name) for _, need in todo} - got.keys() - absent
            for name in sorted(new):
                if wheel := self.find(name, asked[name], target, fit):
                    got[name] = wheel
            absent |= self.fetch(target, {n: asked[n] for n in sorted(new - got.keys())})
            for name in sorted(new - got.keys() - absent):
                wheel = self.find(name, asked[name], target, fit)
                if wheel is None:
                    raise SettingError(f"pip fetched no wheel of {name} for {target}.")
                got[name] = wheel
            for name in new & got.keys():
                if not _pinned(self.needs.pin(name, environments)):
                    self.loose[name] = str(got[name].version)
            todo = [
                (need.name, below)
                for _, need in todo
                for below in self._below(need, got, environments, seen)
            ]
        self.served[target] = [got[name] for name in sorted(got)]

    def _below(
        self, need: Requirement, got: dict[str, Wheel], environments: list[dict[str, str]],
        seen: set[tuple[str, str]],
    ) -> list[Requirement]:  # fmt: skip
        """What a package needs there with these extras, as far as it was not followed before."""
        name = canonicalize_name(need.name)
        new = {e for e in ("", *need.extras) if (name, e) not in seen}
        if name not in got or not new:
            return []
        seen.update((name, extra) for extra in new)
        return [each for each in got[name].requires if _applies(each, environments, new)]

    def find(
        self, name: str, wanted: SpecifierSet, target: Target, fit: frozenset[Tag]
    ) -> Wheel | None:
        """What is there already and can be installed there: the newest, for the oldest systems."""
        fits = [
            wheel for wheel in self.wheels
            if wheel.name == name and wheel.tags & fit
            and wanted.contains(wheel.version, prereleases=True)
            and wheel.pythons.contains(target.release, prereleases=True)
        ]  # fmt: skip
        fits.sort(key=lambda wheel: wheel.asks_for(fit) or ("", (0, 0)))
        return max(fits, key=lambda wheel: wheel.version, default=None)

    def fetch(self, target: Target, wanted: dict[str, SpecifierSet]) -> set[str]:
        """Fetch these packages without what they need. Those that have no wheel there."""
        absent: set[str] = set()
        if wanted:
            print(f"  fetching {len(wanted)} …", flush=True)
        while names := sorted(wanted.keys() - absent):
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=self.folder) as name:
                part = Path(name)
                asked = [f"{n}{wanted[n]}" for n in names]
                status, said = _pip(
                    "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off",
                    "--retries=2", f"--dest={name}", *target.for_pip(), *asked, cwd=self.root,
                )  # fmt: skip
                if status == 0:
                    self._take(sorted(part.glob("*.whl")))
                    return absent
            if _NO_NETWORK.search(said):
                raise SettingError(
                    "The packages could not be downloaded; check the connection (and proxy"
                    " settings). What was fetched before is kept."
                )
            found = _NOT_FOUND.search(said)
            gone = canonicalize_name(found[1]) if found else ""
            if gone not in names:
                raise SettingError(f"pip could not fetch the packages: {_last_error(said)}")
            absent.add(gone)
            self.missing.append((f"{gone} {_pinned(wanted[gone]) or wanted[gone]}".strip(), target))
        return absent

    def _take(self, paths: list[Path]) -> None:
        for path in paths:
            # Only what can be read is taken, so that the next run does not find it damaged.
            if Wheel.read(path) is None:
                raise SettingError(f"The wheel {path.name} came damaged; try again.")
            path.chmod(0o644)
            to = self.folder / path.name
            os.replace(path, to)
            self.fetched.add(to.name)
            self.wheels = [w for w in self.wheels if w.path != to]
            if wheel := Wheel.read(to):
                self.wheels.append(wheel)

    def tidy(self) -> int:
        """Remove wheels of other versions, and of packages that nothing here needs; how many."""
        used = {wheel.path for wheels in self.served.values() for wheel in wheels}
        versions: dict[str, set[Version]] = {}
        for path in used:
            (wheel,) = (w for w in self.wheels if w.path == path)
            versions.setdefault(wheel.name, set()).add(wheel.version)
        old = [w for w in self.wheels if w.path not in used and self._is_old(w, versions)]
        self.wheels = [w for w in self.wheels if w not in old]
        # What stays for a target of an earlier run stays with what only it needs.
        named = {canonicalize_name(r.name) for w in self.wheels for r in w.requires}
        old += [w for w in self.wheels if w.name not in versions and w.name not in named]
        self.wheels = [w for w in self.wheels if w not in old]
        for wheel in old:
            wheel.path.unlink(missing_ok=True)
        return len(old)

    def _is_old(self, wheel: Wheel, versions: dict[str, set[Version]]) -> bool:
        pins = [each.specifier for each in self.needs.constraints
                if canonicalize_name(each.name) == wheel.name]  # fmt: skip
        if pins:
            return not any(pin.contains(wheel.version, prereleases=True) for pin in pins)
        return wheel.name in versions and wheel.version not in versions[wheel.name]

    def check(self) -> None:
        """Let pip resolve a whole set-up of this machine from the folder. Raises SettingError."""
        status, said = _pip(
            "install", "--isolated", "--dry-run", "--ignore-installed", "--no-index",
            "--only-binary=:all:", f"--find-links={FOLDER}", f"--constraint={CONSTRAINTS}",
            *map(str, self.needs.roots), cwd=self.root, PIP_CONFIG_FILE=os.devnull,
        )  # fmt: skip
        if status != 0:
            raise SettingError(
                f"This machine cannot set up from {FOLDER} yet: {_last_error(said)}"
            )


def _pip(*words: str, cwd: Path, **env: str) -> tuple[int, str]:
    """Run this Python's pip; its status and all that it said."""
    inherited = {name: text for name, text in os.environ.items() if name not in _NOT_FOR_PIP}
    done = subprocess.run(
        [sys.executable, "-I", "-m", "pip", *words, "--no-input", "--disable-pip-version-check"],
        cwd=cwd, env={**inherited, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def _last_error(said: str) -> str:
    if found := re.search(r"The user requested \(constraint\) (\S+)", said):
        return f"no wheel of {found[1]} fits."  # which pip calls a conflict
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    told = (errors or lines or ["pip said nothing"])[-1]
    return told if told.endswith(".") else f"{told}."


# The command


def main(env: Mapping[str, str], root: Path = ROOT) -> int:
    """Fill the wheelhouse, check it and say what is in it. Raises SettingError."""
    needs = Needs.read(root)
    wanted = targets(env, needs.pythons)
    house = House(root, needs)
    with _alone(house.folder):
        try:
            house.open()
            for target in wanted:
                print(f"{target} …", flush=True)
                house.fill(target)
            removed = 0 if house.missing else house.tidy()
        except OSError as error:
            raise SettingError(f"{FOLDER} cannot be written: {error}.") from None
        except KeyboardInterrupt:
            print("Stopped. What was fetched is kept; make wheels goes on from there.",
                  file=sys.stderr)  # fmt: skip
            raise
        if house.missing:
            raise SettingError("\n".join([
                *(f"There is no wheel of {what} for {target}." for what, target in house.missing),
                f"All others are in {FOLDER}, and are kept.",
            ]))
        house.check()
    print("\n".join(_told(house, removed)))
    return 0


def _alone(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the folder for one run."""
    return alone_in(folder, folder.name, "Another make wheels is under way in this folder.")


def _told(house: House, removed: int) -> Iterator[str]:
    used = {wheel.path for wheels in house.served.values() for wheel in wheels}
    more = [wheel for wheel in house.wheels if wheel.path not in used]
    yield (
        f"{FOLDER} holds {len({w.name for w in house.wheels})} packages, {_size(house.wheels)}:"
        f" {len(house.fetched)} wheels were fetched now, {removed} old ones removed."
    )
    for target, wheels in house.served.items():
        fit = target.tags()
        asks = max(filter(None, (w.asks_for(fit) for w in wheels)), default=None)
        system = f"; {asks[0]} {asks[1][0]}.{asks[1][1]} or newer" if asks else ""
        yield f"  {target}: {len(wheels)} packages, {_size(wheels)}{system}"
        first = f"{target.python[0]}.{target.python[1]}.0"
        for wheel in wheels:
            if not wheel.pythons.contains(first):
                yield f"    {wheel.name} {wheel.version} needs Python {wheel.pythons}"
    if more:
        yield f"  kept from earlier: {len(more)} wheels, {_size(more)}"
    if house.loose:
        names = ", ".join(f"{name} {version}" for name, version in sorted(house.loose.items()))
        yield f"Not pinned in {CONSTRAINTS}, so another run may fetch another version: {names}."
    yield (
        "Checked: this machine can set up from it without a network.\n"
        "Next: make student-kit WHEELS=1 puts the folder into the students' kit; a copy of it in\n"
        "the folder of any kit does the same."
    )


def _size(wheels: Iterable[Wheel]) -> str:
    total = sum(wheel.path.stat().st_size for wheel in wheels)
    return f"{total / 1e6:.0f} MB" if total >= 1e6 else f"{total / 1e3:.0f} kB"
