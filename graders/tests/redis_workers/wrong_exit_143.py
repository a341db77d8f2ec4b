"""Wrong: it finishes its job as it should, and then exits with 143, which supervisors take for a
crash."""

from __future__ import annotations

import sys

from blmove_worker import run
from common import main

if __name__ == "__main__":
    main(run)
    sys.exit(143)  # the bug
