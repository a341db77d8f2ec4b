"""What is seen while the checks run: one line that is rewritten, on a terminal only."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable
from typing import TextIO

from graders.harness.report.text import Line, clean, cut, emit
from graders.harness.results import FAILED, CheckResult

_MARKS = {"passed": "pass", "failed": "FAIL", "not-checked": " -- ", "could-not-grade": "????"}


class Progress:
    """One line of progress. On a terminal it is rewritten in place; in a pipe there is none.

    total: how many checks there are; 0 while that is not known, and it may be set later.
    With verbose, `finished` adds one line for each check, in a pipe too. Safe from any thread.
    """

    def __init__(self, out: TextIO, total: int = 0, *, verbose: bool = False, color: bool = False
                 ) -> None:
        self.out = out
        self.total = total
        self.verbose = verbose
        self.color = color
        self.live = bool(getattr(out, "isatty", lambda: False)()) and (
            os.environ.get("TERM") != "dumb")
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._shown = ""

    def update(self, done: int, failed: int, current_names: Iterable[str] = ()) -> None:
        """Show how far it is: checks done, how many of them failed, and which run now."""
        if not self.live:
            return
        names = ", ".join(clean(name) for name in current_names)
        if self.total > 0:
            line = f"{bar(done, self.total)} {done} of {self.total} checks done"
        else:
            line = f"{done} check{'' if done == 1 else 's'} done"
        if failed:
            line += f", {failed} failed"
        if names:
            line += f"  now: {names}"
        columns = shutil.get_terminal_size((100, 24)).columns
        with self._lock:
            # the last column stays free: some terminals wrap there
            self._rewrite(cut(line, max(20, min(columns, 100) - 1)))

    def finished(self, check: CheckResult) -> None:
        """A check is done: with verbose, give it a line of its own (on a terminal too)."""
        if not self.verbose:
            return
        with self._lock:
            shown = self._shown
            self._rewrite("")
            since = time.monotonic() - self._began
            style = {"passed": "good", "failed": "bad"}.get(check.verdict, "dim")
            line: Line = [("dim", f"{since:7.2f} s  "), (style, _MARKS.get(check.verdict, "")),
                          ("", cut(f"  {clean(check.name)}", 60)),
                          ("dim", f"  {check.seconds:.2f} s")]
            if check.verdict == FAILED and check.finding is not None:
                line.append(("", f"  {cut(clean(check.finding.code), 40)}"))
            emit([line], self.out, color=self.color)
            self._rewrite(shown)

    def note(self, text: str) -> None:
        """Show one line while nothing can be counted yet, such as servers that are starting."""
        if self.live:
            with self._lock:
                self._rewrite(cut(clean(text), 99))

    def close(self) -> None:
        """Take the line away."""
        with self._lock:
            self._rewrite("")

    def _rewrite(self, line: str) -> None:
        if not self.live or line == self._shown:
            return
        encoding = getattr(self.out, "encoding", None) or "utf-8"
        shown = line.encode(encoding, "replace").decode(encoding)
        self.out.write(f"\r\x1b[K{shown}")
        self.out.flush()
        self._shown = line


def bar(done: int, total: int, width: int = 20) -> str:
    """So much of it is done."""
    full = min(width, done * width // max(total, 1))
    return "[" + "#" * full + "." * (width - full) + "]"
