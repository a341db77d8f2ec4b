"""Which kit has graded: a version, and a fingerprint of all that decides a verdict.

Two kits with the same version give the same submission the same verdicts: the fingerprint covers
the harness, the checks and what they read of the labs, and leaves out what only draws, proves,
teaches or tests. The students' kit has the same one as the whole kit that it was made from. There
its version is stamped into graders/KIT, so that a grader that somebody has changed shows itself.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import graders
from graders.harness.settings import ROOT

STAMP = Path("graders", "KIT")
# What has no say in a verdict, and what students do not get.
_NO_SAY = {"__pycache__", "variants", "hand", "mutants.toml", "mutants.py", "prove.py", "bench.py"}
_OTHER_NAMES = ("*.toml", "*.sql")


def version(root: Path = ROOT) -> str:
    """"0.1.0+1a2b3c4d5e6f", and " (changed)" after it where the kit's stamp says another."""
    return _told(root)


@functools.cache
def _told(root: Path) -> str:
    made = f"{graders.__version__}+{fingerprint(root)}"
    try:
        stamped = (root / STAMP).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        stamped = made
    return made if stamped == made else f"{made} (changed)"


def fingerprint(root: Path = ROOT) -> str:
    """Twelve hexadecimal digits of a hash over all files that decide a verdict."""
    told = hashlib.sha256()
    for path in sorted(_deciding(root)):
        # As git has it: a checkout on another system may have other ends of lines.
        text = path.read_bytes().replace(b"\r\n", b"\n")
        told.update(f"{path.relative_to(root).as_posix()}\0{len(text)}\0".encode())
        told.update(text)
    return told.hexdigest()[:12]


def _deciding(root: Path) -> Iterator[Path]:
    for folder in (root / "graders" / "harness", *root.glob("graders/lab[0-9]*")):
        for path in folder.rglob("*"):
            inside = path.relative_to(root).parts
            if path.is_file() and not _NO_SAY.intersection(inside) and not _is_junk(path.name):
                yield path
    for pattern in _OTHER_NAMES:
        yield from root.glob(f"labs/lab[0-9]*/{pattern}")
    yield root / "graders" / "constraints.txt"


def _is_junk(name: str) -> bool:
    """What file managers, editors and Python leave beside a file."""
    return name.startswith((".", "#")) or name.endswith((".pyc", "~", ".orig", ".rej", ".bak"))
