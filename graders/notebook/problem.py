"""What went wrong in a cell, in a sentence: no traceback of the kit's own inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from graders.harness.check import CouldNotGrade, Finding
from graders.harness.keeper import KeeperLost, SpawnError
from graders.harness.servers import ServerError
from graders.harness.settings import SettingError
from graders.harness.submission import SubmissionError

MOST_LINES = 12  # of an evidence


class Problem(Exception):
    """Something that the reader can do something about; its text says what it is."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: the kit's own frames are no help to a reader.
        return [str(self)]


@contextlib.contextmanager
def told(folder: str = "") -> Iterator[None]:
    """Turn what the harness raises into a Problem. Raises Problem.

    Files in `folder`, where a program is run, are told by their names alone.
    """
    try:
        yield
    except Finding as found:
        text = _finding(found)
        raise Problem(text.replace(f"{folder}/", "") if folder else text) from None
    except (CouldNotGrade, ServerError, SubmissionError, SettingError, KeeperLost,
            SpawnError) as error:
        raise Problem(str(error)) from None


def _finding(found: Finding) -> str:
    lines = [f"Expected: {found.expected}", f"But: {found.seen}"]
    for evidence in found.evidence:
        lines += ["", f"{evidence.title}:"]
        lines += [f"  {line}" for line in evidence.lines[-MOST_LINES:]]
    return "\n".join(lines)
