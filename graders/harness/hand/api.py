"""`make api`: the API in the foreground, and how another command finds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from graders.harness import settings
from graders.harness.hand.detached import Running
from graders.harness.hand.foreground import Program, foreground, submission_of
from graders.harness.servers.base import free_port
from graders.harness.settings import Lab, SettingError, Settings

HOST = "127.0.0.1"


@dataclass(frozen=True)
class RunningApi:
    """An API that `make api` runs."""

    lab: str  # "lab01"
    port: int
    pid: int
    created: float  # when its process was, see Running

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{HOST}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether its process is still there."""
        return Running(self.pid, self.created).process() is not None


def main(env: Mapping[str, str]) -> int:
    """Run the API until it ends; 1 if it ended with an error of its own."""
    chosen = settings.read(env)
    lab = chosen.the_lab
    submission = submission_of(chosen, "api", _other(chosen))
    if submission.path != chosen.submission.resolve():
        path = submission.path
        shown = path.relative_to(settings.ROOT) if path.is_relative_to(settings.ROOT) else path
        print(f"The API of {shown}, on the database of lab {lab.number}.", file=sys.stderr)
    port = _port(chosen.port, lab)
    program = Program("api", "api", {"PORT": str(port)})
    with foreground(submission, lab, env, ()) as runs, contextlib.ExitStack() as remembered:
        print(f"export API=http://{HOST}:{port}", flush=True)
        runs.run([program], lambda api: remembered.enter_context(_remembered(lab, port, api.pid)))
    return int(program.failed)


def running() -> list[RunningApi]:
    """The APIs that `make api` runs now, the latest first."""
    found = []
    for path in _folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):  # it may end at this moment
            api = RunningApi(**json.loads(path.read_text(encoding="utf-8")))
            if api.alive:
                found.append(api)
            else:  # it was killed, and `make api` with it
                path.unlink()
    return sorted(found, key=lambda api: api.created, reverse=True)


def _other(chosen: Settings) -> Path | str:
    """The API to run in a lab where the student writes none: of API=, or the kit's own."""
    lab = chosen.the_lab
    kits = lab.grader / "api"  # what its checks start as well
    if chosen.api or kits.is_dir():
        return Path(chosen.api) if chosen.api else kits
    work = f" Run its worker with: make run LAB={lab.number}" if "worker" in lab.roles else ""
    return f"Lab {lab.number} has no API.{work}"


def _port(wanted: int | None, lab: Lab) -> int:
    """PORT if it is given, else the lab's own port if that is free, else one that is."""
    if wanted is not None:
        why = _taken(wanted)
        if why:
            raise SettingError(
                f"PORT={wanted} cannot be used: {why}. Leave PORT out for a free one."
            )
        return wanted
    why = _taken(lab.api_port)
    if not why:
        return lab.api_port
    port = free_port()
    print(f"Port {lab.api_port} cannot be used: {why}. The API gets {port}.", file=sys.stderr)
    return port


def _taken(port: int) -> str:
    """Why nobody can listen on this port of 127.0.0.1 now; "" if somebody can."""
    if any(api.port == port for api in running()):
        return "another `make api` has it"  # which may not listen yet
    try:
        with socket.socket() as probe:
            # As a server does it: what an earlier one has left in TIME_WAIT is in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except PermissionError:
        return "it needs the rights of root"
    except OSError:
        return "something listens there already"
    # Not every system refuses a port that somebody has on all addresses.
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return "something listens there already"
    return ""


@contextlib.contextmanager
def _remembered(lab: Lab, port: int, pid: int) -> Iterator[None]:
    """Whoever asks for running APIs meanwhile finds this one."""
    path = _folder() / f"{lab.name}-{pid}.json"
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended at once: no API to remember
        created = psutil.Process(pid).create_time()
        beside = path.with_suffix(".new")
        beside.write_text(
            json.dumps({"lab": lab.name, "port": port, "pid": pid, "created": created}),
            encoding="utf-8",
        )
        os.replace(beside, path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _folder() -> Path:
    folder = settings.state_dir() / "apis"
    folder.mkdir(exist_ok=True)
    return folder
