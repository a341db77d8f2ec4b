"""`make bench-class`: how well grading a class uses this machine, and how much memory it takes.

Each kind of submission is graded alone first, and the processor time that this takes is counted, of
all processes of the machine: so nothing else may be running. No class can be graded faster than all
that time, spread over the cores; the ratio says how near the real run comes. Nothing here is
asserted by a test.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from graders.classes import layouts
from graders.classes.layouts import Entry
from graders.classes.records import Record
from graders.classes.runner import Class_, Plan, lanes
from graders.harness import mutants, settings, version
from graders.harness.keeper import temporary_folder

SIZE = 40  # submissions: a quarter references, a quarter starters, and half wrong workers
LIMIT = 600.0  # seconds
EVERY = 3.0  # seconds between two looks at the memory, which take the processor for a while


@dataclass
class Watched:
    """What a run took: seconds, processor seconds of each submission, and memory."""

    seconds: float = 0.0
    processor: dict[str, float] = field(default_factory=dict)
    busy: float = 0.0  # processor seconds of the whole machine, meanwhile
    memory: int = 0  # bytes, the most at any look
    _began: dict[str, float] = field(default_factory=dict)

    def begin(self, entry: Entry) -> None:
        self._began[entry.student] = _busy()

    def end(self, record: Record, _: bool) -> None:
        self.processor[record.student] = _busy() - self._began[record.student]


def main(env: Mapping[str, str]) -> int:
    """Print the benchmark of a lab (LAB, by default lab03): N submissions, JOBS side by side."""
    lab = settings.lab(env.get("LAB") or "03")
    cores = settings.cores()
    jobs = settings.whole("JOBS", env.get("JOBS", "").strip() or str(lanes()), 1, 64)
    size = settings.whole("N", env.get("N", "").strip() or str(SIZE), 4, 1000)
    with temporary_folder("wl-bench-") as folder:
        kinds = _kinds(lab, size, folder / "kinds")
        alone = _run(lab, folder / "kinds", folder / "alone", folder / "work1", 1)
        mixed = [name for name, count in kinds.items() for _ in range(count)]
        random.Random(1).shuffle(mixed)  # no class is sorted by what is wrong
        for number, name in enumerate(mixed):
            shutil.copytree(folder / "kinds" / name, folder / "class" / f"{number:03}-{name}",
                            symlinks=True)
        together = _run(lab, folder / "class", folder / "together", folder / "work2", jobs)
    own = sum(alone.processor[name] * count for name, count in kinds.items())
    total = sum(kinds.values())
    print(f"""{lab.name}, {cores} cores: {total} submissions, {jobs} side by side

  alone         {alone.seconds:7.1f} s for {len(kinds)} kinds, one after the other; \
{100 * alone.busy / cores / alone.seconds:.0f}% busy
  their time    {own:7.1f} s of the processor for all {total}, by what each takes alone
  floor         {own / cores:7.1f} s, that time spread over the cores
  the class     {together.seconds:7.1f} s, {60 * total / together.seconds:.1f} a minute; \
{100 * together.busy / cores / together.seconds:.0f}% busy
  ratio         {own / cores / together.seconds:7.2f}
  memory        {together.memory / 2**20:7.0f} MB at most""")
    return 0


def _kinds(lab: settings.Lab, size: int, to: Path) -> dict[str, int]:
    """Submissions of each kind in a folder, and how many of each the class has."""
    shutil.copytree(settings.ROOT / "solutions" / lab.name, to / "reference")
    shutil.copytree(lab.starter, to / "starter")
    wrong = size // 2
    kinds = {"reference": size // 4, "starter": size - wrong - size // 4}
    every = mutants.mutants(lab)
    for mutant in every[:: max(1, len(every) // wrong)][:wrong]:
        mutants.make(lab, mutant, to / mutant.name)
        kinds[mutant.name] = 1
    return kinds


def _run(lab: settings.Lab, source: Path, out: Path, work: Path, jobs: int) -> Watched:
    work.mkdir()
    plan = Plan(lab=lab, source=source, out=out, work=work, kit=version.version(), jobs=jobs,
                limit=LIMIT)
    seen = Watched()
    run = Class_(plan, layouts.find(source), on_begin=seen.begin, on_end=seen.end)
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(seen, over), daemon=True)
    looking.start()
    began, busy = time.perf_counter(), _busy()
    try:
        run.run()
    finally:
        over.set()
        looking.join()
    seen.seconds = time.perf_counter() - began
    seen.busy = _busy() - busy
    if run.trouble:
        raise settings.SettingError(run.trouble)
    return seen


def _look(seen: Watched, over: threading.Event) -> None:
    """The memory of this process and all below it, shared pages counted once where that is told."""
    me = psutil.Process()
    while not over.wait(EVERY):
        used = 0
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                info = process.memory_full_info()
                used += getattr(info, "pss", info.rss)
        seen.memory = max(seen.memory, used)


def _busy() -> float:
    """Seconds that the processors of this machine have worked so far."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
