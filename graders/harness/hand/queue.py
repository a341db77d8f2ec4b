"""`make queue`: a look at the queue, on a terminal again and again until Ctrl-C, else once."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping

from graders.harness import settings
from graders.harness.hand import jobs, stores, table
from graders.harness.report.text import emit

WIDTH = 100
REFRESH = 1.0  # seconds between two looks
ROWS_IN_A_PIPE = 200
# Lines for so many rows of the queue, in so many columns.
Page = Callable[[int, int], list[str]]


def show(env: Mapping[str, str]) -> int:
    """Show the lab's table of tasks, or its Redis queue."""
    lab = settings.read(env).the_lab
    if "postgres" in lab.services:
        with stores.database(lab, env) as database:
            return _show(lambda rows, width: table.page(database, rows, width, lab))
    with stores.queue_server(env) as server:
        return _show(lambda rows, width: jobs.page(server, rows, width, lab))


def _show(page: Page) -> int:
    live = sys.stdout.isatty()
    try:
        while True:
            size = shutil.get_terminal_size((WIDTH, 24))
            # One line for the words below the page, one for the cursor.
            rows = max(size.lines - 2, 8) if live else ROWS_IN_A_PIPE
            lines = page(rows, min(size.columns, WIDTH) if live else WIDTH)
            if live:
                sys.stdout.write("\x1b[H\x1b[J")  # home, and clear what is below
                lines.append("Ctrl-C ends this view; the workers go on.")
            emit(lines, sys.stdout, color=False)
            sys.stdout.flush()
            if not live:
                return 0
            time.sleep(REFRESH)
    except KeyboardInterrupt:
        print()
        return 0
