"""The API on nothing but http.server: `python -m orchestrator`."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import uuid
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from .config import ConfigError, load_config
from .splitting import split

log = logging.getLogger("orchestrator")

MOST = 1_000_000  # bytes of a body
ADD = """
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
for n = 1, 4 do redis.call('LPUSH', KEYS[2], ARGV[n]) end
"""


class Refused(Exception):
    """A request that cannot be served: status, field, and why."""

    def __init__(self, status: int, field: str, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.field = field


def checked(body: bytes) -> tuple[str, int]:
    """The description and the priority in a body. Raises Refused."""
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=lambda name: None)
    except ValueError:
        raise Refused(400, "body", "is no JSON") from None
    if not isinstance(data, dict):
        raise Refused(400, "body", "is no object")
    description, priority = data.get("description"), data.get("priority", 1)
    if not isinstance(description, str) or not description.strip() or len(description) > 10_000:
        raise Refused(400, "description", "must be text of 1 to 10000 characters")
    if type(priority) is not int or priority not in range(10):
        raise Refused(400, "priority", "must be a whole number from 0 to 9")
    return description, priority


class Handler(BaseHTTPRequestHandler):
    """Each request has a connection of its own to Redis."""

    def do_POST(self) -> None:
        self.serve(self.add)

    def do_GET(self) -> None:
        self.serve(self.look)

    def serve(self, route: Any) -> None:
        try:
            with closing(self.server.connect()) as redis:
                status, told = route(redis)
        except Refused as error:
            status, told = error.status, {"error": {"field": error.field, "reason": str(error)}}
        except RedisError as error:
            log.warning("%s %s: %s", self.command, self.path, error)
            status, told = 503, {"error": {"reason": "no Redis"}}
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def add(self, redis: Redis) -> tuple[int, Any]:
        if self.path != "/tasks":
            raise Refused(404, "path", "is not known")
        length = int(self.headers.get("Content-Length", 0))
        if length > MOST:
            self.close_connection = True
            raise Refused(413, "body", "is too large")
        description, priority = checked(self.rfile.read(length))
        task_id = uuid.uuid4().hex
        parts = [
            {"description": part, "subtask_id": f"{task_id}-{n}"}
            for n, part in enumerate(split(description))
        ]
        jobs = [json.dumps({**p, "priority": priority, "task_id": task_id, "v": 1}) for p in parts]
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = {
            "task_id": task_id, "description": description, "priority": priority,
            "status": "queued", "created_at": created,
            "subtasks": json.dumps([p["subtask_id"] for p in parts]), "parts": json.dumps(parts),
        }
        flat = [text for pair in fields.items() for text in pair]
        redis.eval(ADD, 2, f"task:{task_id}", "work_queue", *jobs, *flat)
        return 201, {
            "subtasks": parts, "created_at": created, "status": "queued", "task_id": task_id,
            "description": description,
        }

    def look(self, redis: Redis) -> tuple[int, Any]:
        if self.path == "/health":
            redis.ping()
            return 200, {"status": "ok"}
        found = re.fullmatch(r"/tasks/(\w[\w-]*)", self.path)
        task = redis.hgetall(f"task:{found[1]}") if found else {}
        if not task:
            return 404, {"error": {"reason": "there is nothing here"}}
        ids = json.loads(task["subtasks"])
        there = sum(each is not None for each in redis.mget([f"result:{id}" for id in ids]))
        return 200, {
            "task_id": task["task_id"], "description": task["description"],
            "priority": int(task["priority"]), "created_at": task["created_at"],
            "subtasks": json.loads(task["parts"]), "results": there,
            "status": "completed" if there == len(ids) else "queued",
        }

    def log_message(self, format: str, *args: Any) -> None:
        log.info(format, *args)


class Server(ThreadingHTTPServer):
    """The server, and how its handlers reach Redis."""

    daemon_threads = False

    def connect(self) -> Redis:
        """A client with one connection, which is opened when it is first used."""
        return Redis(
            self.config.redis_host, self.config.redis_port, decode_responses=True,
            socket_connect_timeout=5, socket_timeout=6, retry=Retry(NoBackoff(), 0),
        )


def main() -> None:
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    try:
        config = load_config(os.environ)
    except ConfigError as error:
        sys.exit(f"orchestrator: {error}")
    server = Server((config.host, config.port), Handler)
    server.config = config
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
