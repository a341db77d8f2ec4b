"""The work of a task: one call to the world outside. The same file in every lab; leave it as it is.

With WORK_URL set, the task is sent there by POST, as JSON, and an answer of 2xx means done.
There is no time limit and no second try: a call takes as long as the world takes.
Without WORK_URL the work is simulated by sleeping, and a title that starts with "fail" fails.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen


class WorkFailed(Exception):
    """The work was tried and did not succeed. The text says why."""


def perform(task: Mapping[str, Any]) -> None:
    """Do the work of `task`. Returns when it is done; raises WorkFailed when it did not succeed."""
    url = os.environ.get("WORK_URL")
    if not url:
        _simulate(task)
        return
    body = json.dumps(dict(task), default=str).encode()
    try:
        with urlopen(Request(url, body, {"Content-Type": "application/json"})) as answer:
            answer.read()
    except (OSError, HTTPException) as error:
        raise WorkFailed(f"the call did not succeed: {error}") from error


def _simulate(task: Mapping[str, Any]) -> None:
    # Lab 01's jobs are subtasks: one second, and one more for each level of priority.
    time.sleep(1 + int(task["priority"]) if "subtask_id" in task else random.uniform(2, 5))
    if str(task.get("title") or task.get("description")).startswith("fail"):
        raise WorkFailed("simulated failure")
