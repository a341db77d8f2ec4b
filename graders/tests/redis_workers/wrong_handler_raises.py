"""Wrong: the handler of an idle worker raises SystemExit(0), also while a job comes (rq/rq#2236).

It waits for the end of a job that is being done. But it is idle, too, while the reply of BRPOP is
on the wire: the server has popped the job, which is lost with status 0.
"""

from __future__ import annotations

import signal

import redis
from common import BLOCK, QUEUE, job_of, main, pause, put_result, stop, work
from redis.exceptions import RedisError

busy = False


def handler(signum: int, frame: object) -> None:
    """End at once if nothing is done, else after it."""
    stop.asked = True
    if not busy:
        raise SystemExit(0)  # the bug: a job may be on its way


def run(r: redis.Redis) -> None:
    """The loop."""
    global busy
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    while not stop.asked:
        try:
            got = r.brpop(QUEUE, BLOCK)
        except RedisError as error:
            pause(error)
            continue
        busy = True
        job = job_of(got[1]) if got else None
        if job is not None:
            put_result(r, work(job))
        busy = False


if __name__ == "__main__":
    main(run)
