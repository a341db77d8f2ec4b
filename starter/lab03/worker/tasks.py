"""What to do for each type of task. A new type is a new function and one line in HANDLERS."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .queue import Task

log = logging.getLogger(__name__)


def handle_generic(task: Task) -> None:
    raise NotImplementedError("TODO 2 is open: do the work of a task (worker/tasks.py)")


def handle_email(task: Task) -> None:
    raise NotImplementedError("TODO 9 is open: handle tasks of type email (worker/tasks.py)")


HANDLERS: dict[str, Callable[[Task], None]] = {
    "generic": handle_generic,
}


def handle(task: Task) -> None:
    """Do the work of `task` by the handler of its type. Raises WorkFailed if it did not succeed."""
    # TODO 9: choose the handler by the task's type; a type without one is failed work.
    HANDLERS["generic"](task)
