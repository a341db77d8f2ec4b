"""The queue by SQLAlchemy Core."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Column,
    DateTime,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    create_engine,
    exc,
    func,
    make_url,
    select,
    update,
)

log = logging.getLogger(__name__)

Task = Mapping[str, Any]

tasks = Table(
    "tasks",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("title", Text),
    Column("description", Text),
    Column("type", Text),
    Column("status", Text),
    Column("priority", Integer),
    Column("assigned_worker", Text),
    Column("created_at", DateTime(timezone=True)),
    Column("updated_at", DateTime(timezone=True)),
)


class ConnectError(Exception):
    """PostgreSQL cannot be used."""


def connect(database_url: str) -> Engine:
    """Verify that PostgreSQL can be used; the engine with its pool."""
    try:
        url = make_url(database_url).set(drivername="postgresql+psycopg")
        host = url.host
    except (exc.ArgumentError, ValueError):
        raise ConnectError("DATABASE_URL is malformed") from None
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_pre_ping=True,
                           connect_args={"connect_timeout": 10})
    try:
        engine.connect().close()
    except exc.DBAPIError:
        raise ConnectError(f"cannot connect to PostgreSQL at {host}") from None
    return engine


@dataclass(frozen=True)
class TaskQueue:
    """The queue as one worker sees it."""

    engine: Engine
    worker_id: str
    stuck_after: float

    def claim(self) -> Task | None:
        old = func.now() - timedelta(seconds=self.stuck_after)
        stuck = select(tasks.c.id).where(tasks.c.status == "processing", tasks.c.updated_at < old)
        stuck = stuck.with_for_update(skip_locked=True)
        oldest = (
            select(tasks.c["id", "title", "description", "type", "priority"])
            .where(tasks.c.status == "pending")
            .order_by(tasks.c.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self.engine.begin() as connection:
            recovered = connection.execute(
                update(tasks)
                .where(tasks.c.id.in_(stuck))
                .values(status="pending", assigned_worker=None, updated_at=func.now())
                .returning(tasks.c.id)
            )
            for row in recovered:
                log.warning("Recovered task %s", row.id)
            task = connection.execute(oldest).mappings().first()
            if task:
                connection.execute(
                    update(tasks)
                    .where(tasks.c.id == task["id"])
                    .values(status="processing", assigned_worker=self.worker_id,
                            updated_at=func.now())
                )
        return task

    def record(self, task: Task, status: str) -> None:
        ours = (
            update(tasks)
            .where(tasks.c.id == task["id"], tasks.c.status == "processing",
                   tasks.c.assigned_worker == self.worker_id)
            .values(status=status, updated_at=func.now())
        )
        while True:
            try:
                with self.engine.begin() as connection:
                    connection.execute(ours)
                return
            except exc.OperationalError as error:
                log.warning("Task %s is not recorded yet: %s", task["id"], error.orig)
                time.sleep(0.5)
