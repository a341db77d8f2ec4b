"""A submission: a folder with a Procfile, its private copy, and its environment.

The grader works on a copy and writes nothing into the student's own folder. Nothing of it is ever
imported: its commands are run as programs, without a shell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shlex
import shutil
import stat
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graders.harness.keeper import Keeper, KeeperLost, SpawnError
from graders.harness.loglines import LineSplitter
from graders.harness.ordinary import beginning

PROCFILE = "Procfile"
ROLES = ("build", "worker", "api", "migrate")
MAX_PROCFILE = 64 * 1024  # bytes
MAX_BYTES = 200 * 1024 * 1024
MAX_FILES = 50_000
# Not copied: history, environments that hold absolute paths, and what Python makes again anyway.
LEFT_OUT = frozenset({".git", ".hg", ".svn", ".venv", "venv", "__pycache__", ".pytest_cache"})

BUILD_TIME = 300.0  # seconds for the `build` command
BUILD_OUTPUT = 1024 * 1024  # bytes of its output that are kept
BUILD_LIMITS = {"memory_bytes": 4 << 30, "processes": 500, "disk_bytes": 4 << 30}

# What a process may know of the user's environment. PG*, PYTHON* and tokens are left out on
# purpose; the tool chains' own variables are for submissions in other languages.
ALLOWED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "JAVA_HOME", "GOROOT", "GOPATH", "CARGO_HOME", "RUSTUP_HOME", "NVM_DIR", "PYENV_ROOT",
})  # fmt: skip

_ROLE = re.compile(r"[A-Za-z0-9_-]+")
_VARIABLE = re.compile(
    r"\$(?:(?P<bare>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::?-(?P<default>[^}]*))?\})"
)
_LITERAL_DOLLAR = "\ue000"  # a $ that is not to be expanded; a private character, in no Procfile


class SubmissionError(Exception):
    """A submission that cannot be graded as it is: a stable code, and one sentence that says why.

    Codes: submission-missing, submission-not-a-folder, submission-unreadable,
    submission-too-large, procfile-missing, procfile-unreadable, procfile-bad-line,
    procfile-unknown-role, procfile-duplicate-role, procfile-empty-command, procfile-bad-quoting,
    procfile-needs-shell, procfile-own-venv, procfile-missing-role, build-failed.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Submission:
    """A folder to be graded, and the copy of it that is run."""

    path: Path  # the student's folder, only ever read
    copy: Path  # what is run, in the run folder
    procfile: dict[str, list[str]]  # role -> the words of its command, variables not yet expanded
    notes: tuple[str, ...] = ()  # what was not copied, if it could matter

    @classmethod
    def load(cls, path: Path, run_dir: Path) -> Submission:
        """Read the Procfile and copy the folder into `run_dir`. Raises SubmissionError."""
        path = Path(path)
        if not path.exists():
            raise SubmissionError("submission-missing", f"There is no folder {path}.")
        if not path.is_dir():
            raise SubmissionError("submission-not-a-folder", f"{path} is not a folder.")
        procfile = read_procfile(path)
        copy = unused(Path(run_dir), path.resolve().name or "submission")
        notes = copy_folder(path, copy, Path(run_dir))
        return cls(path, copy, procfile, tuple(notes))

    def command(self, role: str, env: Mapping[str, str]) -> list[str]:
        """The command of a role, its variables taken from `env`. Raises SubmissionError.

        As in a shell, an unset variable is empty, `${NAME:-default}` has a default, single quotes
        keep a $ as it is, and a word of which nothing is left is dropped.
        """
        if role not in self.procfile:
            raise SubmissionError(
                "procfile-missing-role",
                f"{self.path / PROCFILE} has no line for “{role}”, such as "
                f"“{role}: python -m {role}”.",
            )
        argv = []
        for word in self.procfile[role]:
            expanded = _expand(word, env)
            if expanded or not word:
                argv.append(expanded)
        if not argv or not argv[0]:
            raise SubmissionError(
                "procfile-empty-command",
                f"{self.path / PROCFILE}: nothing is left of the command for “{role}” once its "
                "variables are filled in.",
            )
        return argv

    def build(
        self, keeper: Keeper, env: Mapping[str, str], timeout: float = BUILD_TIME
    ) -> list[str]:
        """Run the `build` command once in the copy, if there is one; returns what it printed.

        `timeout` is in seconds. Raises SubmissionError with code build-failed.
        """
        if "build" not in self.procfile:
            return []
        argv = self.command("build", env)
        words = " ".join(argv)
        marker = keeper.marker("build")
        how: list[tuple[int | None, str | None]] = []
        ended = threading.Event()
        read, write = os.pipe()
        try:
            try:
                folders = [[str(self.copy), 0]]
                if env.get("TMPDIR"):
                    Path(env["TMPDIR"]).mkdir(parents=True, exist_ok=True)
                pid = keeper.spawn(
                    argv, env=env, cwd=self.copy, stdout=write, stderr=write, marker=marker,
                    limits={**BUILD_LIMITS, "folders": folders},
                )  # fmt: skip
            except KeeperLost:
                raise
            except SpawnError as error:
                raise SubmissionError("build-failed", f"The build cannot start: {error}") from None
            finally:
                os.close(write)
            caps: list[str] = []
            keeper.on_cap(marker, lambda cap, *_: caps.append(cap))
            keeper.on_exit(pid, lambda code, name: (how.append((code, name)), ended.set()))
            lines = _collect(read, ended, timeout)
            in_time = ended.is_set()
        finally:
            os.close(read)
            with contextlib.suppress(SpawnError, TimeoutError):
                keeper.kill_tree(marker)  # also what it has left running
        if caps:
            what = f"used too much of the machine's {caps[0]}"
        elif not in_time:
            what = f"was still running after {timeout:.0f} s"
        elif how[0] == (0, None):
            return lines
        elif how[0] == (None, None):
            raise KeeperLost("The grader has lost its keeper process.")
        else:
            code, name = how[0]
            what = f"was ended by {name}" if name else f"ended with exit status {code}"
        last = " | ".join(lines[-3:])
        said = f" Its last lines: {last}" if last else " It printed nothing."
        raise SubmissionError("build-failed", f"The build command “{words}” {what}.{said}")


def _collect(read: int, ended: threading.Event, timeout: float) -> list[str]:
    """Read what a build prints until it ends, in bounded time and memory."""
    deadline = time.monotonic() + timeout
    splitter, lines, kept = LineSplitter(), [], 0
    os.set_blocking(read, False)
    while True:
        over = ended.is_set()  # asked before reading, so that its last words are read
        ready, _, _ = select.select([read], [], [], 0 if over else 0.05)
        if ready:
            data = os.read(read, 65536)
            if data and kept < BUILD_OUTPUT:
                kept += len(data)
                lines += splitter.feed(data)
            if data and time.monotonic() < deadline:
                continue
            if not data:
                ended.wait(max(0.0, deadline - time.monotonic()))
                break
        if over or time.monotonic() >= deadline:
            break
    return [*lines, *splitter.finish()]


# The Procfile


def read_procfile(folder: Path) -> dict[str, list[str]]:
    """The commands of a folder's Procfile, by role. Raises SubmissionError."""
    path = folder / PROCFILE
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise SubmissionError(
            "submission-unreadable", f"{folder} cannot be read: {error.strerror}."
        ) from None
    if PROCFILE not in names:  # asked by name: macOS would also open a `procfile`
        near = [n for n in names if n.lower() in ("procfile", "procfile.txt")]
        other = f" “{near[0]}” is there: it must be called “{PROCFILE}”." if near else ""
        raise SubmissionError("procfile-missing", f"There is no {PROCFILE} in {folder}.{other}")
    try:
        data = beginning(path, MAX_PROCFILE + 1)
        text = data[:MAX_PROCFILE].decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SubmissionError("procfile-unreadable", f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise SubmissionError(
            "procfile-unreadable", f"{path} cannot be read: {error.strerror}."
        ) from None
    if len(data) > MAX_PROCFILE:
        raise SubmissionError(
            "procfile-unreadable", f"{path} is longer than {MAX_PROCFILE // 1024} kB."
        )
    return parse_procfile(text, path)


def parse_procfile(text: str, path: Path) -> dict[str, list[str]]:
    """The commands of a Procfile, by role. Raises SubmissionError that names file and line."""
    commands: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        role, colon, command = line.partition(":")
        role, command = role.strip(), command.strip()
        if not colon or not _ROLE.fullmatch(role):
            raise SubmissionError(
                "procfile-bad-line", f"{where}: expected “role: command”, found “{line[:60]}”."
            )
        if role not in ROLES:
            raise SubmissionError(
                "procfile-unknown-role",
                f"{where}: “{role}” is no role; the roles are {', '.join(ROLES)}.",
            )
        if role in commands:
            raise SubmissionError(
                "procfile-duplicate-role", f"{where}: there is a line for “{role}” already."
            )
        commands[role] = _words(command, where, role)
    return commands


def _words(command: str, where: str, role: str) -> list[str]:
    """The words of a command, as a shell would cut them."""
    try:
        words = shlex.split(_protect(command))
    except ValueError as error:
        trouble = "a quote is not closed" if "quotation" in str(error) else str(error).lower()
        raise SubmissionError("procfile-bad-quoting", f"{where}: {trouble}.") from None
    if not words or not words[0]:
        raise SubmissionError(
            "procfile-empty-command", f"{where}: there is no command after “{role}:”."
        )
    if re.match(r"[A-Za-z_][A-Za-z0-9_]*=", words[0]):
        raise SubmissionError(
            "procfile-needs-shell",
            f"{where}: commands are started without a shell, so “{words[0]}” must be set by "
            f"“env {words[0]} …”.",
        )
    if words[0].removeprefix("./").split("/")[0] in (".venv", "venv"):
        raise SubmissionError(
            "procfile-own-venv",
            f"{where}: “{words[0]}” is not copied for grading; “python” is an interpreter that "
            "has what the lab needs.",
        )
    for operator in ("&&", "||", "|", ">", ">>", "&"):
        if operator in words:
            raise SubmissionError(
                "procfile-needs-shell",
                f"{where}: commands are started without a shell, so “{operator}” means nothing; "
                "put the commands into a script, or use “bash -c '…'”.",
            )
    return words


def _protect(command: str) -> str:
    """Mark each $ that a shell would not expand: in single quotes, or after a backslash."""
    out, quote, escaped = [], "", False
    for char in command:
        if char == "$" and (escaped or quote == "'"):
            if escaped and quote == '"':
                out.pop()  # shlex would keep the backslash here
            char = _LITERAL_DOLLAR
        elif not escaped and char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        escaped = char == "\\" and not escaped and quote != "'"
        out.append(char)
    return "".join(out)


def _expand(word: str, env: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        return env.get(found["bare"] or found["name"], "") or found["default"] or ""

    return _VARIABLE.sub(value, word).replace(_LITERAL_DOLLAR, "$")


# The copy


def unused(folder: Path, name: str) -> Path:
    """A path in this folder that is not there yet."""
    path, n = folder / name, 1
    while path.exists():
        n += 1
        path = folder / f"{name}-{n}"
    return path


def copy_folder(source: Path, target: Path, run_dir: Path) -> list[str]:
    """Copy a submission; returns remarks on what was left out. Raises SubmissionError.

    Links inside the folder are made again; links to the outside are left out, as are sockets,
    pipes and devices, and the names in LEFT_OUT.
    """
    root = source.resolve()
    notes: list[str] = []
    size = files = 0

    def unreadable(error: OSError) -> None:
        raise SubmissionError(
            "submission-unreadable", f"{error.filename} cannot be read: {error.strerror}."
        )

    for folder, folders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        there = target / here.relative_to(root)
        there.mkdir(parents=True)
        kept = []
        for name in folders:
            if name in LEFT_OUT or here / name == run_dir.resolve():
                continue
            if (here / name).is_symlink():
                _copy_link(here / name, there / name, root, notes)
            else:
                kept.append(name)
        folders[:] = kept
        for name in names:
            file = here / name
            try:
                info = file.lstat()
                if stat.S_ISLNK(info.st_mode):
                    _copy_link(file, there / name, root, notes)
                    continue
                if not stat.S_ISREG(info.st_mode):
                    notes.append(f"{file.relative_to(root)} was not copied: it is no plain file.")
                    continue
                files += 1
                size += info.st_size
                if size > MAX_BYTES or files > MAX_FILES:
                    much = "200 MB" if size > MAX_BYTES else f"{MAX_FILES:,} files"
                    raise SubmissionError(
                        "submission-too-large",
                        f"{source} is too large to be graded: more than {much}, "
                        f"{file.relative_to(root)} among them.",
                    )
                shutil.copy2(file, there / name, follow_symlinks=False)
            except OSError as error:
                if str(error.filename) != str(file) or error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise  # the copy's side, not the student's
                unreadable(error)
    return notes


def _copy_link(link: Path, target: Path, root: Path, notes: list[str]) -> None:
    """Make a link again, relative, if it stays inside the folder."""
    goal = Path(os.path.normpath(link.parent / os.readlink(link)))
    if goal.is_relative_to(root) and Path(os.path.realpath(link)).is_relative_to(root):
        os.symlink(os.path.relpath(goal, link.parent), target)
    else:
        notes.append(f"{link.relative_to(root)} was not copied: it links to outside the folder.")


# The environment


def base_env(kit_bin: Path, run_dir: Path) -> dict[str, str]:
    """The environment of every process of a submission, before the variables of its role.

    `kit_bin` is the folder of the kit's own interpreter: `python` in a Procfile is that one.
    `run_dir` holds its TMPDIR.
    """
    env = {k: v for k, v in os.environ.items() if k in ALLOWED or k.startswith("LC_")}
    paths = [str(kit_bin)]
    if not (kit_bin / "python").exists() or not (kit_bin / "python3").exists():
        paths.insert(0, str(_own_bin(run_dir)))  # an interpreter that is called python3.12 only
    env["PATH"] = os.pathsep.join([*paths, env.get("PATH") or os.defpath])
    private = run_dir / "tmp"
    private.mkdir(parents=True, exist_ok=True)
    env.setdefault("HOME", str(private))
    env["TMPDIR"] = str(private)
    # Loopback is never reached through a proxy, and PostgreSQL is not asked for Kerberos first.
    env["NO_PROXY"] = env["no_proxy"] = "*"
    env["PGGSSENCMODE"] = "disable"
    return env


def _own_bin(run_dir: Path) -> Path:
    """A folder with the kit's interpreter under its two usual names."""
    folder = run_dir / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("python", "python3"):
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(sys.executable)
    return folder
