"""Right: a reliable queue. BLMOVE into the own list, the work, then MULTI: SET result, LREM; EXEC.

Whatever happens a job is in the queue, in a list of a worker, or has its result. A crash costs at
most a second execution, a lost reply or a stop costs nothing. See common.py for why.
"""

from __future__ import annotations

import redis
from common import BLOCK, OWN, QUEUE, finish, hold, insist, leave, main, pause, stop, sweep
from redis.exceptions import RedisError


def run(r: redis.Redis) -> None:
    """The loop."""
    while True:
        # What stands in the own list comes first: a crash or a lost reply has left it there, or
        # the BLMOVE below has brought it. It is work in hand, so a stop is looked at after it.
        raw = insist(lambda: hold(r))
        if raw is not None:
            finish(r, raw)
            continue
        if stop.asked:
            break
        try:
            sweep(r)
            r.blmove(QUEUE, OWN, BLOCK, "RIGHT", "LEFT")
        except RedisError as error:
            pause(error)
    leave(r)


if __name__ == "__main__":
    main(run)
