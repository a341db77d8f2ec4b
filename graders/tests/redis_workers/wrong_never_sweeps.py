"""Wrong: nobody looks into the lists of the crashed, nor into its own: what is there is stuck."""

from __future__ import annotations

import redis
from common import BLOCK, OWN, QUEUE, finish, main, pause, stop
from redis.exceptions import RedisError


def run(r: redis.Redis) -> None:
    """The loop."""
    while not stop.asked:
        try:
            raw = r.blmove(QUEUE, OWN, BLOCK, "RIGHT", "LEFT")
        except RedisError as error:
            pause(error)  # the bug: the job may stand in the own list now, also after a crash
            continue
        if raw is not None:
            finish(r, raw)


if __name__ == "__main__":
    main(run)
