"""The lab of a notebook: its servers, and what can be done with programs on them.

One process may have one lab open at a time; opening another, or the same one again, closes the
first. Everything ends with the process, also one that is killed: the keeper sees to that.
"""

from __future__ import annotations

import atexit
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graders.harness import settings
from graders.harness.catalog import standing_servers
from graders.harness.explore.acts import Act
from graders.harness.history import Event
from graders.harness.report import timeline
from graders.harness.report.svg import figure
from graders.harness.room import Room
from graders.harness.servers import Services
from graders.harness.session import GradingSession, Options
from graders.notebook import measure, moments
from graders.notebook.problem import Problem, told
from graders.notebook.programs import Source, register, register_modules
from graders.notebook.tables import Html, Table

_open: Bench | None = None


class Bench:
    """The servers of one lab, and the programs of a notebook on them."""

    def __init__(self, lab: str) -> None:
        with told():
            self.info = settings.lab(f"lab{lab}" if len(lab) == 2 else lab)
        self._services: Services | None = None
        self._sessions: dict[str, GradingSession] = {}
        self._start_seconds: float | None = None  # measured by the first program, for all
        with told():
            self._start()

    # Servers

    def _start(self) -> None:
        self._servers = contextlib.ExitStack()
        self._services = self._servers.enter_context(standing_servers(self.info.services))

    def close(self) -> None:
        """End everything: programs, servers, files. It can be called twice."""
        self._forget()
        self._servers.close()

    def _forget(self) -> None:
        for session in self._sessions.values():
            session.finish()
        self._sessions.clear()

    def session(self, program: Source) -> GradingSession:
        """The run of this program, on servers that are well. Raises Problem."""
        with told():
            if not self._services.healthy():
                print("A server had gone; starting it again.")
                self._forget()
                self._servers.close()
                self._start()
            if program.key not in self._sessions:
                self._sessions[program.key] = self._prepared(program)
            return self._sessions[program.key]

    def _prepared(self, program: Source) -> GradingSession:
        # The run has a copy of its own, which the keeper removes whatever happens.
        with tempfile.TemporaryDirectory(prefix="wl-") as folder:
            path = program.write(Path(folder) / program.name)
            session = GradingSession(
                self.info.name, {}, Options.read(LAB=self.info.name, SRC=str(path)),
                standing=self._services, roles=(), start_seconds=self._start_seconds,
            )
            try:
                session.prepare()
            except BaseException:
                session.finish()
                raise
        self._start_seconds = session.start_seconds
        return session

    # What a notebook does

    @contextlib.contextmanager
    def room(self, program: Source) -> Iterator[Room]:
        """A store, an outside world and a history of their own, for this program. Raises Problem.

        What can be done in it is what checks do: see graders.harness.room, lab and jobs. All
        processes of it end with the `with` block; what was seen stays (`timeline`).
        """
        session = self.session(program)
        with told(str(session.submission.copy)):
            room = session.room(f"notebook-{len(self._sessions)}-{program.name}")
            try:
                yield room
            finally:
                room.close()

    def timeline(self, seen: Any, title: str = "", most: int = 60) -> Html:
        """The timeline of a room or of a moment (see Moments.at), drawn; as text beside it."""
        events = seen.history.events() if isinstance(seen, Room) else list(seen.events)
        return drawn(events, title, most)

    def explore(
        self, program: Source, kind: str, act: Act | None = None,
        scenarios: Sequence[str] = ("pending",),
    ) -> moments.Moments:
        """Try every moment: "crash", "interleaving", "shutdown" or "disconnect". Raises Problem.

        Of a worker, in these scenarios ("pending", "three", "failing", "stuck"); or of a single
        act (`graders.notebook.acts`).
        """
        return self._run(program, lambda session: moments.explore(session, kind, act, scenarios))

    def pause_at_each_step(self, program: Source) -> Table:
        """Hold a worker at each of its steps, and look from outside. Raises Problem."""
        return self._run(program, moments.pause_at_each_step)

    def race(self, program: Source, at: str) -> moments.Race:
        """Hold two workers after their first step that begins with `at`; then let both go on.

        Raises Problem.
        """
        return self._run(program, lambda session: moments.race(session, at))

    def waiting_times(
        self, program: Source, intervals: Sequence[float], tasks: int = 12
    ) -> dict[float, list[float]]:
        """For each poll interval (seconds): how long each task waited until its work began, in s.

        The tasks come at random moments. Raises Problem.
        """
        return self._run(program, lambda s: measure.waiting_times(s, intervals, tasks))

    def throughput(
        self, program: Source, workers: Sequence[int], tasks: int = 40, work: float = 0.05,
        at_once: int | None = None,
    ) -> dict[int, float]:
        """For each number of workers: tasks per second, where each takes the world `work` seconds.

        With `at_once` the world works on no more than so many tasks at a time. Raises Problem.
        """
        return self._run(program, lambda s: measure.throughput(s, workers, tasks, work, at_once))

    def _run(self, program: Source, work: Callable[[GradingSession], Any]) -> Any:
        """Do it so that the stop button ends it at once and leaves nothing running."""
        session = self.session(program)

        def stop() -> None:
            session.stopping = True

        with told(str(session.submission.copy)):
            try:
                return moments.interruptible(lambda: work(session), stop)
            except KeyboardInterrupt:
                self._sessions.pop(program.key, None)
                session.finish()
                raise Problem("Stopped; nothing of it runs any more. The cell can be run again.") \
                    from None


def drawn(events: Sequence[Event], title: str, most: int) -> Html:
    """The timeline of these events as a drawing, with its text; of so many rows at most."""
    rows = timeline.rows(events, most=most)
    return Html(figure(rows, title), "\n".join(timeline.draw(rows, most=None)))


def open_lab(lab: str) -> Bench:
    """Start the servers of a lab ("03"); the lab that was open before is closed. Raises Problem."""
    global _open
    if _open is not None:
        _open.close()
        _open = None
    with contextlib.suppress(ImportError, NameError):
        from IPython import get_ipython

        if (shell := get_ipython()) is not None:
            register(shell)
            register_modules(shell)
    _open = Bench(lab)
    return _open


def current() -> Bench:
    """The lab that is open. Raises Problem."""
    if _open is None:
        raise Problem('No lab is open. Run the cell with open_lab("…") first.')
    return _open


@atexit.register
def _close() -> None:
    if _open is not None:
        _open.close()
