"""Wrong: RPOP, then LPUSH into the own list: a crash or a cut in between loses the job."""

from __future__ import annotations

import redis
from common import (
    OWN,
    POLL_INTERVAL,
    QUEUE,
    finish,
    hold,
    insist,
    leave,
    main,
    pause,
    stop,
    sweep,
    wait,
)
from redis.exceptions import RedisError


def run(r: redis.Redis) -> None:
    """The loop."""
    while True:
        raw = insist(lambda: hold(r))
        if raw is not None:
            finish(r, raw)
            continue
        if stop.asked:
            break
        try:
            sweep(r)
            raw = r.rpop(QUEUE)
            if raw is not None:
                r.lpush(OWN, raw)  # the bug: until here the job is nowhere but in this process
            else:
                wait(POLL_INTERVAL)
        except RedisError as error:
            pause(error)
    leave(r)


if __name__ == "__main__":
    main(run)
