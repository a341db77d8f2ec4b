"""`results.json`: the result model as JSON, for scripts and for every later report.

Its shape is published in `results.schema.json` beside this file (JSON Schema, draft 2020-12).
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graders.harness.results import SCHEMA_VERSION, CheckResult, LabResult

SCHEMA_PATH = Path(__file__).with_name("results.schema.json")


def write(result: LabResult, path: Path) -> Path:
    """Write the result to this file, all of it or nothing. Makes the folder if need be.

    Raises OSError when the file cannot be written.
    """
    return write_text(path, dumps(result))


def write_text(path: Path, text: str) -> Path:
    """Write a file, all of it or nothing. Makes the folder if need be.

    Raises OSError when the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def dumps(result: LabResult) -> str:
    """The result as JSON text."""
    return json.dumps(to_dict(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The published schema."""
    return json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))


def to_dict(result: LabResult) -> dict[str, Any]:
    """The result in the shape of the schema."""
    exercises = []
    titles = dict(result.exercises)
    for check in result.checks:
        titles.setdefault(check.exercise, "")
    for exercise, title in titles.items():
        checks = [c for c in result.checks if c.exercise == exercise]
        exercises.append({
            "id": exercise,
            "title": title,
            "points": sum(c.points for c in checks),
            "earned": sum(c.earned for c in checks),
        })
    return _sound({
        "schema_version": SCHEMA_VERSION,
        "kit_version": result.kit_version,
        "lab": result.lab,
        "title": result.title,
        "submission": result.submission,
        "services": dict(result.services),
        "seed": result.seed,
        "started": result.started,
        "seconds": round(result.seconds, 6),
        "partial": result.partial,
        "points": result.points,
        "earned": result.earned,
        "exit_status": result.exit_status,
        "exercises": exercises,
        "checks": [_check(check) for check in result.checks],
        "unanswered": list(result.unanswered),
        "notes": list(result.notes),
        "extra": result.extra,
    })


def _check(check: CheckResult) -> dict[str, Any]:
    finding = check.finding
    return {
        "name": check.name,
        "exercise": check.exercise,
        "title": check.title,
        "why": check.why,
        "points": check.points,
        "earned": check.earned,
        "verdict": check.verdict,
        "needs": list(check.needs),
        "reason": check.reason,
        "seconds": round(check.seconds, 6),
        "steps": list(check.steps),
        "finding": None if finding is None else {
            "code": finding.code,
            "expected": finding.expected,
            "seen": finding.seen,
            "evidence": [{"title": e.title, "lines": list(e.lines)} for e in finding.evidence],
        },
        "timeline": [asdict(row) for row in check.timeline],
        "drawing": check.drawing or None,
        "coverage": None if check.coverage is None else {
            "noun": check.coverage.noun,
            "count": check.coverage.count,
            "moments": [
                {"step": m.step, "words": m.words, "scenario": m.scenario, "outcome": m.outcome,
                 "told": m.told}
                for m in check.coverage.moments
            ],
            "unexplored": list(check.coverage.unexplored),
        },
    }


def _sound(value: Any) -> Any:
    """The value without what JSON in UTF-8 cannot hold: lone surrogates, NaN, foreign objects."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_sound(str(k)): _sound(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sound(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _sound(str(value))
