"""What the workers of this folder share: configuration, connection, work, and the right pieces.

A job is taken by moving it into the worker's own list, `processing:<WORKER_ID>`, and is struck off
there in the transaction that stores its result. No two processes share a WORKER_ID, so only its
worker adds to a list, and a list outlives its worker's crash.

Who may take a job from another's list is said by a lease, `lease:<WORKER_ID>`, that runs out after
WORKER_STUCK_AFTER. It is renewed in the transaction that shows a worker its job, and by nobody
while the work goes on: **a lease shorter than the longest work runs out under a living worker**,
whose job is then done twice.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.request import Request, urlopen

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, WatchError
from redis.retry import Retry

T = TypeVar("T")

QUEUE = "work_queue"
ME = os.environ["WORKER_ID"]
OWN = f"processing:{ME}"
LEASE = f"lease:{ME}"
LEASE_MS = max(1, round(float(os.environ.get("WORKER_STUCK_AFTER", "3600")) * 1000))
POLL_INTERVAL = float(os.environ.get("WORKER_POLL_INTERVAL", "1"))  # where nothing blocks
BLOCK = 1  # seconds of a blocking read; an idle worker hears of a stop after it
KEPT = 86400  # seconds
PAUSE = 0.2  # seconds between two tries at a connection
LAST_TRIES = 5  # after a stop, before Redis is given up


class Stop:
    """Whether a signal has asked for the end. As a handler it sets that flag and nothing else."""

    asked = False

    def __call__(self, signum: int, frame: object) -> None:
        self.asked = True


stop = Stop()


def main(run: Callable[[redis.Redis], None]) -> None:
    """Let a worker run until it was asked to stop. Returns then; ends with 1 without Redis."""
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        run(connect())
    except RedisError as error:
        # What is in the own list stays there, for the next start or for a sweep.
        sys.exit(f"Redis does not answer: {error}")


def connect() -> redis.Redis:
    """The connection; it is opened at the first command, and anew after each error."""
    return redis.Redis(
        os.environ.get("REDIS_HOST", "127.0.0.1"), int(os.environ.get("REDIS_PORT", "6379")),
        # By default 5 s, which a blocking read may wait in vain for (redis/redis-py#4125).
        socket_timeout=15,
        # By default a command is sent again, ten times and silently. The first one may have
        # popped a job; whether to ask again is decided where the command is known.
        retry=Retry(NoBackoff(), 0),
    )


def wait(seconds: float) -> None:
    """Sleep, but no longer than until a stop. In slices: a handler may not set an Event safely."""
    end = time.monotonic() + seconds
    while not stop.asked and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))


def pause(error: RedisError) -> None:
    """Redis did not answer: say so, and wait a moment."""
    print(f"Redis: {error}", file=sys.stderr, flush=True)
    time.sleep(PAUSE)


def insist(ask: Callable[[], T]) -> T:
    """Ask until Redis answers; only for what may be done twice. After a stop it gives up soon."""
    tries = 0
    while True:
        try:
            return ask()
        except RedisError as error:
            tries += stop.asked
            if tries >= LAST_TRIES:
                raise
            pause(error)


# The work ----------------------------------------------------------------------------------------

def job_of(raw: bytes) -> dict[str, Any] | None:
    """A job from the queue; None for what is none, which must not end the worker."""
    try:
        job = json.loads(raw)
    except ValueError:
        return None
    return job if isinstance(job, dict) and "subtask_id" in job else None


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do it: one call, without a time limit or a second try. Returns the result."""
    request = Request(os.environ["WORK_URL"], json.dumps(job).encode(),
                      {"Content-Type": "application/json"})
    try:
        with urlopen(request) as answer:
            answer.read()
        status = "completed"
    except (OSError, HTTPException):
        status = "failed"
    return {
        "subtask_id": job["subtask_id"], "task_id": job.get("task_id"), "status": status,
        "worker_id": ME, "completed_at": datetime.now(UTC).isoformat(),
        "description": job.get("description"),
    }


def result_key(job: dict[str, Any]) -> str:
    """Where the result of a job is kept."""
    return f"result:{job['subtask_id']}"


def put_result(r: redis.Redis, result: dict[str, Any]) -> None:
    """Keep a result, by a command of its own."""
    insist(lambda: r.set(result_key(result), json.dumps(result), ex=KEPT))


# The reliable queue ------------------------------------------------------------------------------

def hold(r: redis.Redis) -> bytes | None:
    """Renew the lease, and see which job stands longest in the own list.

    One transaction: what it shows was not swept away before, and will not be while the lease
    lasts. The list is asked and not the reply of a pop, because a reply can get lost, and because
    a pop whose connection is gone may still be waiting at the server and come true later.
    """
    with r.pipeline() as pipe:
        pipe.set(LEASE, ME, px=LEASE_MS)
        pipe.lindex(OWN, -1)
        return pipe.execute()[1]


def sweep(r: redis.Redis) -> None:
    """Give back what stands in the lists of workers without a lease.

    Each job is moved by one command, so a crash leaves it in one of the two lists and a second
    sweeper finds it in one of them. WATCH makes the look at the lease and the move one: a worker
    that renews its lease in between (it was starting, or late) keeps its jobs. A late one whose
    job was swept away before sees that in `hold`, and leaves it alone.
    The lists are found by SCAN: a set of workers that one could join and leave would need a
    moment at which a late worker's list belongs to nobody.
    """
    for own in r.scan_iter("processing:*", count=1000):
        if own == OWN.encode():
            continue
        lease = b"lease:" + own.removeprefix(b"processing:")
        moved = True
        while moved:
            with r.pipeline() as pipe:
                try:
                    pipe.watch(lease)
                    if pipe.exists(lease):
                        break
                    pipe.multi()
                    pipe.lmove(own, QUEUE, "RIGHT", "RIGHT")  # it was next, and is next again
                    moved = pipe.execute()[0] is not None
                except WatchError:
                    break  # it lives


def finish(r: redis.Redis, raw: bytes) -> None:
    """Do a job that stands in the own list, and have its result take its place.

    Where there is a result already, the job was done by a worker that was late for its lease.
    """
    job = job_of(raw)
    if job is None or insist(lambda: r.exists(result_key(job))):
        insist(lambda: r.lrem(OWN, 1, raw))
        return
    store(r, raw, work(job))


def store(r: redis.Redis, raw: bytes, result: dict[str, Any]) -> None:
    """Keep the result and strike the job off, in one transaction.

    After a lost reply it is sent again rather than the work done again: it changes nothing then,
    since a result is not overwritten (NX) and an own list holds no job that has one.
    """
    def transaction() -> None:
        with r.pipeline() as pipe:
            pipe.set(result_key(result), json.dumps(result), ex=KEPT, nx=True)
            pipe.lrem(OWN, 1, raw)
            pipe.execute()

    insist(transaction)


def leave(r: redis.Redis) -> None:
    """Give the lease back, so that nobody waits for it. If that fails it runs out by itself."""
    with suppress(RedisError):
        r.delete(LEASE)
