"""Wrong: after a signal it goes on until the queue is empty."""

from __future__ import annotations

import redis
from common import BLOCK, OWN, QUEUE, finish, hold, insist, leave, main, pause, stop, sweep
from redis.exceptions import RedisError


def run(r: redis.Redis) -> None:
    """The loop."""
    while True:
        raw = insist(lambda: hold(r))
        if raw is not None:
            finish(r, raw)
            continue
        try:
            sweep(r)
            raw = r.blmove(QUEUE, OWN, BLOCK, "RIGHT", "LEFT")
        except RedisError as error:
            pause(error)
            continue
        if raw is None and stop.asked:  # the bug: a stop counts only where nothing is left
            break
    leave(r)


if __name__ == "__main__":
    main(run)
