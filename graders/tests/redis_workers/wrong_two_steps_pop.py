"""Wrong: it looks (LINDEX) and then removes (LREM), whatever LREM answers: two do one job.

It keeps the job in its own list, so a crash or a cut alone loses nothing.
"""

from __future__ import annotations

import redis
from common import (
    OWN,
    POLL_INTERVAL,
    QUEUE,
    hold,
    insist,
    job_of,
    leave,
    main,
    pause,
    stop,
    store,
    sweep,
    wait,
    work,
)
from redis.exceptions import RedisError


def take(r: redis.Redis) -> bytes | None:
    """Look which job is next, and move it into the own list."""
    raw = r.lindex(QUEUE, -1)
    if raw is not None:
        with r.pipeline() as pipe:
            pipe.lrem(QUEUE, 1, raw)
            pipe.lpush(OWN, raw)
            pipe.execute()  # the bug: LREM's 0 says that another one was faster
    return raw


def run(r: redis.Redis) -> None:
    """The loop."""
    while True:
        raw = insist(lambda: hold(r))
        if raw is not None:
            job = job_of(raw)
            if job is None:
                insist(lambda raw=raw: r.lrem(OWN, 1, raw))
            else:
                store(r, raw, work(job))
            continue
        if stop.asked:
            break
        try:
            sweep(r)
            if take(r) is None:
                wait(POLL_INTERVAL)
        except RedisError as error:
            pause(error)
    leave(r)


if __name__ == "__main__":
    main(run)
