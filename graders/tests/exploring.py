"""What the tests of the explorations share: a submission, and one exploration of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from graders.harness import mutants, settings
from graders.harness.catalog import checks_of
from graders.harness.results import CheckResult
from graders.harness.session import GradingSession, Options

LAB = settings.lab("lab03")
CHECKS = {
    "crash": "survives_a_crash_at_every_step",
    "interleaving": "meets_another_worker_at_every_step",
    "shutdown": "stops_cleanly_at_every_step",
    "disconnect": "survives_a_disconnect_at_every_step",
}


def worker(name: str, to: Path, lab: settings.Lab = LAB) -> Path:
    """A folder with the reference, a variant or a mutant, by its name."""
    if name == "reference":
        return settings.ROOT / "solutions" / lab.name
    for mutant in mutants.mutants(lab):
        if mutant.name == name:
            return mutants.make(lab, mutant, to / name)
    for variant in mutants.variants(lab):
        if variant.name == name:
            return mutants.make_variant(lab, variant, to / name)
    raise LookupError(name)


def explored(folder: Path, *kinds: str, step: str = "") -> dict[str, CheckResult]:
    """The results of these explorations, which are not kept from it by what they need."""
    results = graded_alone(LAB, folder, [CHECKS[kind] for kind in kinds], step)
    return {kind: results[CHECKS[kind]] for kind in kinds}


def graded_alone(
    lab: settings.Lab, folder: Path, names: Sequence[str], step: str = ""
) -> dict[str, CheckResult]:
    """The results of these checks, whatever they need."""
    checks = {name: replace(checks_of(lab)[name], needs=()) for name in names}
    options = replace(
        Options.read(LAB=lab.name, SRC=str(folder), CHECK=",".join(names)), step=step
    )
    session = GradingSession(lab.name, checks, options)
    session.start()
    try:
        return {name: session.result_of(name) for name in names}
    finally:
        session.finish()


@contextlib.contextmanager
def prepared(folder: Path, lab: settings.Lab = LAB) -> Iterator[GradingSession]:
    """A grading run that has everything and grades nothing."""
    session = GradingSession(lab.name, {}, Options.read(LAB=lab.name, SRC=str(folder)))
    try:
        session.prepare()
        yield session
    finally:
        session.finish()


@contextlib.contextmanager
def hungry(count: int) -> Iterator[None]:
    """So many neighbours that use all the CPU they get."""
    # They end with us, whatever ends us.
    eat = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    neighbours = [subprocess.Popen([sys.executable, "-c", eat]) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
