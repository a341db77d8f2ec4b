"""Wrong: SET result and LREM are two commands; after a crash between them the job is done again."""

from __future__ import annotations

import redis
from common import (
    BLOCK,
    OWN,
    QUEUE,
    hold,
    insist,
    job_of,
    leave,
    main,
    pause,
    put_result,
    stop,
    sweep,
    work,
)
from redis.exceptions import RedisError


def run(r: redis.Redis) -> None:
    """The loop."""
    while True:
        raw = insist(lambda: hold(r))
        if raw is not None:
            job = job_of(raw)
            if job is not None:
                put_result(r, work(job))  # the bug: nobody asks whether there is a result already
            insist(lambda raw=raw: r.lrem(OWN, 1, raw))
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
