"""The four explorations: crash, interleaving, shutdown, disconnect, at every step a worker takes.

This engine knows no lab and no store. A lab gives it a `Setting`: how a store is filled, how a
worker is started, and what counts as done (`stage.py`). `record.py` finds out which steps a worker
takes, `crash.py`, `interleave.py`, `shutdown.py` and `disconnect.py` try something at each of them,
`points.py` runs the trials side by side and sums them up.
"""
