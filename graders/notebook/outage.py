"""A server that goes away, as one program sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from graders.harness.program import Program


@contextlib.contextmanager
def away(program: Program) -> Iterator[None]:
    """As long as this lasts the program's connections are cut, and new ones are refused."""
    lab = program.lab
    program.wire.refuse()
    program.wire.cut()
    lab.tell(f"{lab.store} went away from {program.name}: cut, and refused from then on.")
    try:
        yield
    finally:
        program.wire.refuse(False)
        lab.tell(f"{lab.store} came back for {program.name}.")
