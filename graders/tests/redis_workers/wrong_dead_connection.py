"""Wrong: after a connection error it lives on and never works again (graphile/worker#541).

The thread that consumes ends by the error; the main thread waits for a signal and hears of nothing
(celery/celery#9054 looked like that from outside).
"""

from __future__ import annotations

import threading
import time

import redis
from common import BLOCK, OWN, QUEUE, finish, hold, leave, main, stop, sweep


def consume(r: redis.Redis) -> None:
    """The loop. The bug: an error of the connection ends it, and nobody starts it again."""
    while True:
        raw = hold(r)
        if raw is not None:
            finish(r, raw)
            continue
        if stop.asked:
            break
        sweep(r)
        r.blmove(QUEUE, OWN, BLOCK, "RIGHT", "LEFT")


def run(r: redis.Redis) -> None:
    """Wait for a signal while the other thread works."""
    consumer = threading.Thread(target=consume, args=(r,))
    consumer.start()
    while not stop.asked:
        time.sleep(0.05)
    consumer.join()
    leave(r)


if __name__ == "__main__":
    main(run)
