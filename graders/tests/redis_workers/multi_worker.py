"""Right: like blmove_worker, but it polls, and takes a job together with its lease, in one MULTI.

Nothing blocks, so the answer of the transaction can be trusted where there is one: the job is in
the own list, and the lease is fresh. Where it got lost, the own list is asked.
"""

from __future__ import annotations

import redis
from common import (
    LEASE,
    LEASE_MS,
    ME,
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


def take(r: redis.Redis) -> bytes | None:
    """Move a job into the own list and renew the lease."""
    with r.pipeline() as pipe:
        pipe.lmove(QUEUE, OWN, "RIGHT", "LEFT")
        pipe.set(LEASE, ME, px=LEASE_MS)
        return pipe.execute()[0]


def run(r: redis.Redis) -> None:
    """The loop."""
    while True:
        raw = insist(lambda: hold(r))
        if raw is None:
            if stop.asked:
                break
            try:
                sweep(r)
                raw = take(r)
            except RedisError as error:
                pause(error)
                continue
        if raw is not None:
            finish(r, raw)
        else:
            wait(POLL_INTERVAL)
    leave(r)


if __name__ == "__main__":
    main(run)
