"""Wrong: it finishes as it should, then exits with 143, as if the signal had killed it."""

from __future__ import annotations

import sys

from blmove_worker import run
from common import main

if __name__ == "__main__":
    main(run)
    sys.exit(143)  # the bug
