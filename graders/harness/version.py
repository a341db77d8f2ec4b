"""Which kit has graded: a version, and a fingerprint of all that decides a verdict.

Two kits with the same version give the same submission the same verdicts: the fingerprint covers
the harness, the checks and what they read of the labs, and leaves out what only draws, proves,
teaches or tests. The students' kit has the same one as the whole kit that it was made from. There
its version is stamped into graders/KIT, so that a grader that somebody has changed shows itself.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

import graders
from graders.harness.settings import ROOT

STAMP = Path("graders", "KIT")
# What has no say in a verdict, and what students do not get.
_NO_SAY = {"variants", "hand", "mutants.toml", "mutants.py", "prove.py", "bench.py"}
_OTHER_NAMES = ("*.toml", "*.sql")
_JUNK = re.compile(
    r"__pycache__|.*\.py[co]|\.(pytest|ruff)_cache|\.ipynb_checkpoints|\.venv|\.git|\.worker-labs"
    r"|\.DS_Store|\._.*|__MACOSX|Thumbs\.db|desktop\.ini|\.idea|\.vscode"
    r"|.*~|#.*#|\.#.*|.*\.(bak|orig|rej|sw[a-p]|tmp)",
    re.IGNORECASE,
)


@functools.cache
def version(root: Path = ROOT) -> str:
    """"0.1.0+1a2b3c4d5e6f", and " (changed)" after it where the kit's stamp says another."""
    made = f"{graders.__version__}+{fingerprint(root)}"
    try:
        stamped = (root / STAMP).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        stamped = made
    return made if stamped == made else f"{made} (changed)"


def fingerprint(root: Path = ROOT) -> str:
    """Twelve hexadecimal digits of a hash over all files that decide a verdict."""
    told = hashlib.sha256()
    for path in sorted(deciding(root)):
        # As git has it: a checkout on another system may have other ends of lines.
        text = path.read_bytes().replace(b"\r\n", b"\n")
        told.update(f"{path.relative_to(root).as_posix()}\0{len(text)}\0".encode())
        told.update(text)
    return told.hexdigest()[:12]


def deciding(root: Path) -> Iterator[Path]:
    """All files that decide a verdict."""
    for folder in (root / "graders" / "harness", *root.glob("graders/lab[0-9]*")):
        for path in folder.rglob("*"):
            inside = path.relative_to(root)
            if path.is_file() and not _NO_SAY.intersection(inside.parts) and not is_junk(inside):
                yield path
    for pattern in _OTHER_NAMES:
        yield from root.glob(f"labs/lab[0-9]*/{pattern}")
    yield root / "graders" / "constraints.txt"


def is_junk(path: PurePath) -> bool:
    """Whether an editor, a file manager or a run has left this file, or a folder it is in."""
    return any(_JUNK.fullmatch(part) for part in path.parts)
