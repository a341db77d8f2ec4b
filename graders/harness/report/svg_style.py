"""How a drawn timeline looks: its colours, its shapes, and the pattern of each status.

No meaning is in a colour alone: every kind of row has a shape, every status a pattern and border of
its own and its name.
"""

from __future__ import annotations

from collections.abc import Callable

from graders.harness import results

# Text on each ground has a contrast of 4.5 to 1 or more, in both.
LIGHT = {
    "ground": "#ffffff", "text": "#1b1f24", "quiet": "#57606a", "line": "#8c959f",
    "claim": "#e3edf9", "work": "#0b5cad", "on-work": "#ffffff",
    "broke": "#b3261e", "on-broke": "#ffffff", "broke-ground": "#fdeceb", "pattern": "#c3cad2",
}  # fmt: skip
DARK = {
    "ground": "#15191f", "text": "#e6edf3", "quiet": "#a3adb8", "line": "#737d88",
    "claim": "#20344c", "work": "#7dbaff", "on-work": "#10141a",
    "broke": "#ff9d94", "on-broke": "#15191f", "broke-ground": "#40201f", "pattern": "#4a535d",
}  # fmt: skip

FONT = ('ui-monospace, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", '
        "monospace")  # fmt: skip
SIZE = 13  # pixels; of all text but the title
COLUMN = 7.85  # pixels that a column of it takes, in the widest of these fonts


def css(prefix: str) -> str:
    """The style sheet of one drawing, whose classes all begin with its prefix."""
    p = f".{prefix}"
    light = " ".join(f"--{name}: {value};" for name, value in LIGHT.items())
    dark = " ".join(f"--{name}: {value};" for name, value in DARK.items())
    return f"""
{p} {{ {light} }}
@media screen and (prefers-color-scheme: dark) {{ {p} {{ {dark} }} }}
{p} text {{ font: {SIZE}px {FONT}; fill: var(--text); white-space: pre; }}
{p} .{prefix}-title {{ font-size: 16px; font-weight: 700; }}
{p} .{prefix}-head, {p} .{prefix}-bold {{ font-weight: 700; }}
{p} .{prefix}-quiet {{ fill: var(--quiet); }}
{p} .{prefix}-log {{ fill: var(--quiet); font-style: italic; }}
{p} .{prefix}-on-work {{ fill: var(--on-work); font-weight: 700; }}
{p} .{prefix}-on-broke {{ fill: var(--on-broke); font-weight: 700; }}
{p} .{prefix}-word {{ font-weight: 700; stroke: var(--ground); stroke-width: 4px;
  stroke-linejoin: round; paint-order: stroke; }}
{p} .{prefix}-ground {{ fill: var(--ground); }}
{p} .{prefix}-broke {{ fill: var(--broke); }}
{p} .{prefix}-broke-ground {{ fill: var(--broke-ground); }}
{p} .{prefix}-broke-edge {{ stroke: var(--broke); stroke-width: 1.5; }}
{p} .{prefix}-life {{ stroke: var(--line); stroke-width: 1; }}
{p} .{prefix}-rule {{ stroke: var(--line); stroke-width: 1; stroke-dasharray: 2 4; }}
{p} .{prefix}-claim {{ fill: var(--claim); stroke: var(--work); stroke-width: 1.5; }}
{p} .{prefix}-work {{ fill: var(--work); stroke: var(--work); stroke-width: 1.5; }}
{p} .{prefix}-open {{ stroke-dasharray: 5 3; }}
{p} .{prefix}-full {{ fill: var(--text); stroke: var(--ground); stroke-width: 1; }}
{p} .{prefix}-hollow {{ fill: var(--ground); stroke: var(--text); stroke-width: 1.75; }}
{p} .{prefix}-stroke {{ fill: none; stroke: var(--text); stroke-width: 1.5; }}
{p} .{prefix}-thick {{ fill: none; stroke: var(--text); stroke-width: 3.5; }}
{p} .{prefix}-halo {{ fill: none; stroke: var(--ground); stroke-width: 7; }}
{p} .{prefix}-lost {{ stroke-dasharray: 6 4; }}
{p} .{prefix}-hit {{ fill: transparent; }}
{p} .{prefix}-row:hover .{prefix}-hit {{ fill: var(--line); fill-opacity: 0.15; }}
{p} .{prefix}-pattern {{ fill: none; stroke: var(--pattern); stroke-width: 1.25; }}
{p} .{prefix}-dots {{ fill: var(--pattern); }}
{p} .{prefix}-band {{ stroke: var(--line); stroke-width: 1.5; }}
"""


# --- what a row is --------------------------------------------------------------------------------


def _triangle(p: str, x: float, y: float) -> str:
    return f'<path class="{p}-hollow" d="M{x - 5:g} {y - 7:g}l12 7l-12 7z"/>'


def _diamond(p: str, x: float, y: float) -> str:
    return f'<path class="{p}-full" d="M{x:g} {y - 8:g}l8 8l-8 8l-8 -8z"/>'


def _cross(p: str, x: float, y: float) -> str:
    d = f"M{x - 6:g} {y - 6:g}l12 12m0 -12l-12 12"
    return f'<path class="{p}-halo" d="{d}"/><path class="{p}-thick" d="{d}"/>'


def _square(p: str, x: float, y: float) -> str:
    return f'<rect class="{p}-full" x="{x - 7:g}" y="{y - 7:g}" width="14" height="14"/>'


def slashes(p: str, x: float, y: float) -> str:
    """Two strokes across a line that is cut."""
    d = f"M{x - 5:g} {y + 7:g}l5 -14m3 14l5 -14"
    plate = f'<rect class="{p}-ground" x="{x - 7:g}" y="{y - 8:g}" width="17" height="16" rx="3"/>'
    return f'{plate}<path class="{p}-stroke" d="{d}"/>'


def _dot(p: str, x: float, y: float) -> str:
    return f'<circle class="{p}-full" cx="{x:g}" cy="{y:g}" r="3.5"/>'


def _ring(p: str, x: float, y: float) -> str:
    return f'<circle class="{p}-hollow" cx="{x:g}" cy="{y:g}" r="5"/>'


def _slab(p: str, x: float, y: float) -> str:
    return f'<rect class="{p}-full" x="{x - 9:g}" y="{y - 4:g}" width="18" height="8" rx="2"/>'


MARKS: dict[str, tuple[Callable[[str, float, float], str], str]] = {
    results.START: (_triangle, "a process starts"),
    results.SIGNAL: (_diamond, "a signal is sent"),
    results.KILL: (_cross, "SIGKILL is sent"),
    results.EXIT: (_square, "a process has ended"),
    results.CUT: (slashes, "a connection is cut, or a call given up"),
    results.STATUS: (_slab, "a row has changed"),
    results.LOG: (_dot, "a line of log"),
    results.NOTE: (_ring, "something else"),
}


# --- what a status is -----------------------------------------------------------------------------


def pattern(prefix: str, status: str) -> str:
    """The definition of a status's pattern; empty for one that is plain."""
    p, inner = prefix, {
        "processing": '<path class="{p}-pattern" d="M-2 2l4 -4M0 10l10 -10M8 12l4 -4"/>',
        "completed": '<path class="{p}-pattern" d="M0 5h10"/>',
        "failed": '<path class="{p}-pattern" d="M0 0l10 10M10 0l-10 10"/>',
    }.get(status, "" if status == "pending" else '<circle class="{p}-dots" cx="5" cy="5" r="1.5"/>')
    if not inner:
        return ""
    return (f'<pattern id="{pattern_id(p, status)}" width="10" height="10" '
            f'patternUnits="userSpaceOnUse">{inner.format(p=p)}</pattern>')


def pattern_id(prefix: str, status: str) -> str:
    """The name of its pattern in the document."""
    known = status if status in ("pending", "processing", "completed", "failed") else "other"
    return f"{prefix}-{known}"


def border(status: str) -> str:
    """Its border: attributes of a shape."""
    return {
        "pending": 'stroke-dasharray="2 4"',
        "processing": "",
        "completed": 'style="stroke-width: 3"',
        "failed": 'style="stroke-width: 3" stroke-dasharray="8 3"',
    }.get(status, 'stroke-dasharray="8 3 2 3"')
