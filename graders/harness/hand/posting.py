"""Tasks for an API: which one is running, and a POST as any client makes it."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from graders.harness.hand import api
from graders.harness.report.text import clean, cut
from graders.harness.settings import Lab, SettingError

STARTING = 15.0  # seconds that an API has until it listens
ANSWERING = 30.0  # seconds for an answer
SHOWN = 300  # characters of an answer that was not expected


def find_api(lab: Lab, named: str | None) -> str | None:
    """The address of this lab's API: the one that `make api` runs, else API if one answers there.

    API stays set in a terminal when what it named has gone, so it is only a hint. Raises
    SettingError for one that is no address, and for an API that runs and does not listen.
    """
    found = api.running()
    ours = [each for each in found if each.lab == lab.name]
    if ours:
        _wait(ours[0])
        return ours[0].url
    if named is None:
        return None
    host, port = _address(named)
    if any(each.port == port for each in found) or not _listens(host, port):
        return None  # another lab's, or nobody's
    return named.rstrip("/")


def post(url: str, body: Mapping[str, Any]) -> str:
    """POST one task; the id that the API gave it. Raises SettingError for any other answer."""
    host, port = _address(url)
    link = http.client.HTTPConnection(host, port, timeout=ANSWERING)
    try:
        link.request(
            "POST", f"{urlsplit(url).path}/tasks", json.dumps(body),
            {"Content-Type": "application/json"},
        )
        answer = link.getresponse()
        status, said = answer.status, answer.read()
    except TimeoutError:
        raise SettingError(
            f"The API at {url} did not answer POST /tasks within {ANSWERING:.0f} s."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise SettingError(f"The API at {url} did not answer POST /tasks: {clean(why)}") from None
    finally:
        link.close()
    shown = cut(clean(said.decode("utf-8", "backslashreplace").strip()), SHOWN) or "(no body)"
    if status != 201:
        raise SettingError(f"The API answered POST /tasks with {status} instead of 201: {shown}")
    known_by = _id_in(said)
    if known_by is None:
        raise SettingError(f"The API answered POST /tasks with 201, but without an id: {shown}")
    return known_by


def _id_in(said: bytes) -> str | None:
    """The task's id in an answer of either form: {"task_id"} or {"data": {"id"}}."""
    try:
        told = json.loads(said)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    inner = told.get("data")
    found = inner.get("id") if isinstance(inner, dict) else told.get("task_id")
    return str(found) if isinstance(found, str | int) else None


def _wait(running: api.RunningApi) -> None:
    """Return once it listens, which it may not do yet."""
    until = time.monotonic() + STARTING
    while not _listens(api.HOST, running.port):
        if not running.alive:
            raise SettingError("The API that `make api` ran has ended just now.")
        if time.monotonic() > until:
            raise SettingError(
                f"The API runs (pid {running.pid}), but nothing listens at {running.url}: "
                "does it listen on PORT?"
            )
        time.sleep(0.05)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:  # a port that is none
        host, port = None, 0
    if host is None or parts.scheme != "http":
        raise SettingError(f"API={url} is no address of an API; one is http://127.0.0.1:8000")
    return host, port
