"""The text that each student gets: what `make grade` would have printed, under a short head."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graders.harness.report import terminal
from graders.harness.report.json_report import write_text
from graders.harness.report.text import wrap
from graders.harness.results import LabResult

NAME = "feedback.txt"
WIDTH = 100


def write(folder: Path, head: Sequence[str], result: LabResult | None) -> Path:
    """Write feedback.txt into a folder; `result` is None where nothing was graded.

    Raises OSError.
    """
    text = io.StringIO()
    for paragraph in head:
        text.write("\n".join(wrap(paragraph, WIDTH)) + "\n")
    if result is not None:
        text.write("\n")
        # The drawings lie beside it, wherever both go.
        terminal.write(replace(result, folder="."), text, color=False, width=WIDTH)
    return write_text(folder / NAME, text.getvalue())
