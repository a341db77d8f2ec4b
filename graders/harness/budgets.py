"""How long a check waits before it says that something did not happen.

Each budget is a bound that only a failing worker meets: nothing that works waits for it. All of
them grow with PATIENCE and with how slow this machine is, measured once per run.
"""

from __future__ import annotations

from dataclasses import dataclass

# Seconds that `python -c "import psycopg"` takes on the machine for which the bounds were chosen.
NOMINAL_START = 0.35
# A machine that is slower than this by far is slow for a moment, and not for the whole run.
MOST_SLOWNESS = 5.0


@dataclass(frozen=True)
class Budgets:
    """Seconds for each phase of a worker's life, before they are scaled."""

    boot: float = 15.0  # from its start to its first connection, or to a refusal
    ready: float = 10.0  # from its first connection to its first poll
    work: float = 8.0  # for each thing a running worker is waited for
    shutdown: float = 8.0  # from the signal to its exit
    factor: float = 1.0

    def scaled(self, patience: float, measured_start: float) -> Budgets:
        """These budgets for this machine: `measured_start` is its own start-up time in seconds."""
        slowness = min(max(1.0, measured_start / NOMINAL_START), MOST_SLOWNESS)
        factor = patience * slowness
        return Budgets(
            self.boot * factor,
            self.ready * factor,
            self.work * factor,
            self.shutdown * factor,
            factor,
        )
