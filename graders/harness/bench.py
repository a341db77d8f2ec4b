"""`make bench-grader`: how fast grading is, as a ratio to what it cannot be faster than.

The floor is what the student's processes cost by themselves: so many starts of a bare Python with
the libraries of their role, spread over the cores, after the servers have started. All is measured
in one run, so the ratio holds on a slow machine too. Nothing here is asserted by a test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from graders.harness import settings
from graders.harness.catalog import checks_of
from graders.harness.results import LabResult
from graders.harness.session import GradingSession, Options

STARTS = 5
CLIENTS = {"postgres": "psycopg, psycopg_pool", "redis": "redis"}


def libraries(lab: settings.Lab, role: str) -> str:
    """What a program of this role imports at the least: "redis, fastapi, uvicorn"."""
    client = CLIENTS["postgres" if "postgres" in lab.services else "redis"]
    return f"{client}, fastapi, uvicorn" if role == "api" else client


def bare_start(imported: str) -> float:
    """Seconds of one start of a bare Python with these libraries, the median of a few."""
    taken = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {imported}"], check=True)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[STARTS // 2]


def measure(lab: settings.Lab, folder: Path) -> dict[str, object]:
    """Grade a folder once and say how long everything took, in seconds, and the memory in MB."""
    checks = checks_of(lab)
    options = Options.read(LAB=lab.name, SRC=str(folder))
    began = time.perf_counter()
    session = GradingSession(lab.name, checks, options)
    session.start()
    first = None
    most = 0
    for name in checks:
        session.result_of(name)
        first = first or time.perf_counter() - began
        most = max(most, psutil.Process().memory_info().rss)
    result = session.finish()
    return {
        "seconds": time.perf_counter() - began,
        "first_verdict": first,
        "servers": session.servers_seconds,
        "starts": dict(session.starts),
        "memory_mb": most / 2**20,
        "result": result,
    }


def main(env: Mapping[str, str]) -> int:
    """Print the benchmark of one lab (LAB, by default lab03)."""
    lab = settings.lab(env.get("LAB") or "03")
    cores = os.cpu_count() or 1
    reference = measure(lab, settings.ROOT / "solutions" / lab.name)
    starter = measure(lab, settings.ROOT / "starter" / lab.name)
    result, starts = reference["result"], reference["starts"]
    each = {role: bare_start(libraries(lab, role)) for role in starts}
    floor = sum(starts[role] * each[role] for role in starts) / cores + reference["servers"]
    counted = ", ".join(f"{starts[role]} {role} x {each[role]:.2f} s" for role in sorted(starts))
    print(f"{lab.name}, {cores} cores\n")
    print(f"  {'check':44} {'verdict':10} {'seconds':>8} {'share':>6}")
    total = sum(check.seconds for check in result.checks)
    for check in sorted(result.checks, key=lambda check: -check.seconds):
        share = 100 * check.seconds / total
        print(f"  {check.name:44} {check.verdict:10} {check.seconds:8.2f} {share:5.0f}%")
    print(f"""
  reference     {reference["seconds"]:6.2f} s   {result.earned} of {result.points} points
  first verdict {reference["first_verdict"]:6.2f} s
  servers       {reference["servers"]:6.2f} s
  explored      {_explored(result)}
  floor         {floor:6.2f} s   ({counted}) / {cores} cores + servers
  ratio         {reference["seconds"] / floor:6.2f}
  starter       {starter["seconds"]:6.2f} s
  grader memory {reference["memory_mb"]:6.0f} MB""")
    return 0


def _explored(result: LabResult) -> str:
    """How many moments were tried, and how many in a second of the whole run."""
    points = sum(c.coverage.count for c in result.checks if c.coverage is not None)
    return f"{points:6} moments, {points / result.seconds:.1f} per second of the whole run"
