"""Right, at most once by design: a plain BRPOP. A crash loses the job in hand, known and named.

So does a reply of BRPOP that gets lost on the wire, and a BRPOP that comes true at the server
after its connection has gone: for these nothing can be done here.
"""

from __future__ import annotations

import redis
from common import BLOCK, QUEUE, job_of, main, pause, put_result, stop, work
from redis.exceptions import RedisError


def run(r: redis.Redis) -> None:
    """The loop."""
    while not stop.asked:
        try:
            got = r.brpop(QUEUE, BLOCK)
        except RedisError as error:
            pause(error)
            continue
        job = job_of(got[1]) if got else None
        if job is not None:
            put_result(r, work(job))


if __name__ == "__main__":
    main(run)
