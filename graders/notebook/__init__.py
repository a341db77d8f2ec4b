"""What the notebooks import: servers, workers written in cells, and ways to look at every moment.

    from graders.notebook import open_lab
    lab = open_lab("03")

`open_lab` starts the lab's servers, which end with the kernel, whatever ends it. A cell that
begins with `%%worker NAME` (or `%%api NAME`, `%%migrate NAME`) makes its Python code a program
called NAME. The lab then runs such programs as the graders do: behind proxies, with an outside
world in which their work is counted (`Bench.room`, `Bench.explore`, `Bench.pause_at_each_step` and
so on). Mistakes of a program are told in a sentence (`Problem`); the cell can be changed and run
again.
"""

from graders.lab02.moments import MigrateUp, PostTask
from graders.notebook.bench import Bench, open_lab
from graders.notebook.exercises import check_my_claim, check_my_store, check_my_take
from graders.notebook.moments import after, before
from graders.notebook.outage import away
from graders.notebook.plots import plot_throughput, plot_waiting_times
from graders.notebook.problem import Problem
from graders.notebook.programs import Source
from graders.notebook.tables import Table

__all__ = [
    "Bench", "MigrateUp", "PostTask", "Problem", "Source", "Table", "after", "away",
    "before", "check_my_claim", "check_my_store", "check_my_take", "open_lab", "plot_throughput",
    "plot_waiting_times",
]
