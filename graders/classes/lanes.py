"""The other end of a lane (lane.py): its process, what it is told, and what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graders.classes.lane import END_TIME, Order
from graders.harness import leftovers
from graders.harness.leftovers import NUDGE_EVERY
from graders.harness.settings import ROOT, SHARE, Lab

START_BOUND = 300.0  # seconds, times PATIENCE; servers take one to five
GRACE = 60.0  # seconds, times PATIENCE, after which one that was told to end is ended by force
# What is said to one grading must not reach those of a class.
NOT_FOR_LANES = ("SRC", "CHECK", "STEP", "API", "RUNS", "N", "VERBOSE", "DIR", "OUT", "AGAIN",
                 "PORT", "DOWN")


class LaneGone(Exception):
    """The lane's process has ended, or was ended."""


class LaneHangs(LaneGone):
    """It was ended because it did not answer in time."""


class Trouble(Exception):
    """The kit or this machine cannot grade; `str(error)` says why, in one sentence."""


class Lane:
    """A running lane. `grade` is called by one thread; `stop` may be called by any."""

    def __init__(self, lab: Lab, services: str, share: float, log: Path, patience: float) -> None:
        """Start its process, which may keep `share` cores busy. `start` waits for its servers."""
        self._lab, self._services, self._log, self._patience = lab, services, log, patience
        self._ledger = leftovers.Ledger()
        env = {k: v for k, v in os.environ.items() if k not in NOT_FOR_LANES}
        env |= {SHARE: f"{share:.2f}", "PATIENCE": str(patience),
                leftovers.LEDGER: str(self._ledger.fd)}
        leftovers.adopt()
        with log.open("wb") as errors:
            # A session of its own: Ctrl-C is for the command, which then ends its lanes in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "graders.classes.lane"], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=env, start_new_session=True,
                pass_fds=[self._ledger.fd],
            )
        self._unread = b""
        self._stdin = threading.Lock()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def start(self) -> list[str]:
        """Wait until its servers run; what they are. Raises Trouble, LaneGone."""
        self._say({"lab": self._lab.name, "services": self._services})
        told = self._answer(START_BOUND * self._patience)
        return [str(note) for note in told.get("ready", ())]

    def grade(self, order: Order) -> None:
        """Grade it; returns when its results are written. Raises Trouble, LaneGone."""
        self._say(asdict(order))
        self._answer(order.limit + END_TIME + GRACE * self._patience)

    def share(self, cores: float) -> None:
        """From now on it may keep so many cores busy."""
        with contextlib.suppress(LaneGone):
            self._say({"share": round(cores, 2)})

    def stop(self) -> None:
        """No more orders: it stops what is under way and ends by itself."""
        with self._stdin, contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait until it has ended and cleaned up; one that hangs is ended by force."""
        self.stop()
        leftovers.await_end(self._process, END_TIME + GRACE * self._patience, self._nudge)
        if self._process.returncode != 0:
            self.kill()
        self._ledger.close()
        self._process.stdout.close()

    def kill(self) -> None:
        """End it at once, with everything that it had started: returns when all is gone."""
        if self._process.poll() is None:  # else the number may be somebody else's by now
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        leftovers.settle(self._ledger.read())
        self._ledger.close()

    def _nudge(self) -> None:
        """Let it go on, should what it grades have stopped it."""
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGCONT)

    def last_words(self) -> str:
        """The last line that it wrote to standard error; "" if there is none."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
        return ""

    def _say(self, told: dict[str, Any]) -> None:
        try:
            with self._stdin:
                self._process.stdin.write(json.dumps(told).encode() + b"\n")
                self._process.stdin.flush()
        except (OSError, ValueError):
            raise LaneGone from None

    def _answer(self, bound: float) -> dict[str, Any]:
        until = time.monotonic() + bound
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                left = until - time.monotonic()
                if left <= 0:
                    self.kill()
                    raise LaneHangs("it did not answer in time")
                if not selector.select(min(left, NUDGE_EVERY)):
                    self._nudge()
                    continue
                read = os.read(self._process.stdout.fileno(), 65536)
                if not read:
                    raise LaneGone("it ended")
                self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        told = json.loads(line)
        if trouble := told.get("trouble"):
            raise Trouble(str(trouble))
        if fault := told.get("fault"):
            raise LaneGone(str(fault))
        return told
