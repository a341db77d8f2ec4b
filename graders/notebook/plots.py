"""Plots of what was measured. The only place that needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

MEASURED, THEORY = "#1f5fa8", "#b34700"  # told apart by their marks as well


def plot_waiting_times(measured: Mapping[float, Sequence[float]], title: str) -> Any:
    """How long tasks waited (seconds) by the poll interval (seconds), with half the interval."""
    axes = _axes(title, "poll interval (s)", "waiting time until the work began (s)")
    for interval, waits in measured.items():
        axes.plot([interval] * len(waits), waits, ".", color=MEASURED, alpha=0.35,
                  label="_one task")
    intervals = sorted(measured)
    axes.plot(intervals, [mean(measured[i]) for i in intervals], "o-", color=MEASURED,
              label="measured: the mean of its tasks (a dot is one task)")
    axes.plot([0, intervals[-1]], [0, intervals[-1] / 2], "--", color=THEORY,
              label="theory: half the interval")
    return _done(axes)


def plot_throughput(measured: Mapping[int, float], work: float, title: str) -> Any:
    """Tasks per second by the number of workers, with what `work` seconds per task would allow."""
    axes = _axes(title, "workers", "tasks per second")
    counts = sorted(measured)
    axes.plot(counts, [measured[n] for n in counts], "o-", color=MEASURED, label="measured")
    axes.plot(counts, [n / work for n in counts], "--", color=THEORY,
              label=f"if only the work took time ({1000 * work:.0f} ms a task)")
    axes.set_xticks(counts)
    return _done(axes)


def _axes(title: str, x: str, y: str) -> Any:
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(8, 4.5))
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return axes


def _done(axes: Any) -> Any:
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    axes.figure.tight_layout()
    return axes
