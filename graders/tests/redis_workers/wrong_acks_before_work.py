"""Wrong: the job is struck off before its work; a crash in between loses it (resque/resque#129)."""

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
            insist(lambda raw=raw: r.lrem(OWN, 1, raw))  # the bug: the work comes after it
            job = job_of(raw)
            if job is not None:
                put_result(r, work(job))
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
