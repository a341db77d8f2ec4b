"""The commands behind the Makefile: `python -m graders.harness.cli COMMAND`.

What a command needs to know comes from the environment (see settings.py). A command that fails
says why in one sentence; nobody sees a traceback for a wrong setting or an interrupted run.
"""

from __future__ import annotations

import signal

# Until a command runs there is nothing to end: Ctrl-C ends this program as it ends any other.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from graders.harness.settings import EXIT_STOPPED, EXIT_USAGE, SettingError

# Command -> the module and its function, `(env) -> exit status`. Imported only when asked for, so
# that no command waits for what it does not need.
COMMANDS = {
    "grade": ("graders.harness.grade", "main"),
    "explore": ("graders.harness.explore.command", "main"),
    "labs": ("graders.harness.labs", "main"),
    "hint": ("graders.harness.hints", "main"),
    "reset": ("graders.harness.reset", "main"),
    "doctor": ("graders.harness.doctor", "main"),
    "test-setup": ("graders.harness.doctor", "test_setup"),
    "images": ("graders.harness.doctor", "images"),
    "up": ("graders.harness.hand.servers", "up"),
    "down": ("graders.harness.hand.servers", "down"),
    "run": ("graders.harness.hand.run", "main"),
    "api": ("graders.harness.hand.api", "main"),
    "migrate": ("graders.harness.hand.migrate", "main"),
    "tasks": ("graders.harness.hand.tasks", "add"),
    "queue": ("graders.harness.hand.queue", "show"),
    "psql": ("graders.harness.hand.psql", "main"),
    "redis-cli": ("graders.harness.hand.redis_prompt", "main"),
    "notebook": ("graders.notebook.command", "main"),
    # For instructors, and those who work on the kit; the students' kit has none of these modules.
    "student-kit": ("graders.classes.kit", "main"),
    "wheels": ("graders.classes.wheels", "main"),
    "grade-all": ("graders.classes.command", "main"),
    "bench-class": ("graders.classes.bench", "main"),
    "prove": ("graders.harness.prove", "main"),
    "bench-grader": ("graders.harness.bench", "main"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. 2 for what cannot be done as asked."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a stand-in, never an error.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")
    given = list(sys.argv[1:] if argv is None else argv)
    if len(given) != 1 or given[0] not in COMMANDS:
        print(f"Usage: python -m graders.harness.cli {'|'.join(COMMANDS)}", file=sys.stderr)
        return EXIT_USAGE
    module, function = COMMANDS[given[0]]
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = getattr(importlib.import_module(module), function)(os.environ)
        sys.stdout.flush()
    except SettingError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("graders."):
            raise
        print(f"This kit has no command {given[0]}.", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except BrokenPipeError:
        # The reader has gone (`make labs | head`); Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
