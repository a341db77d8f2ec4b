"""The tasks table, by SQLAlchemy Core."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.dialects import postgresql

from .models import NewTask, Status, TaskChanges

Row = dict[str, Any]

tasks = sa.Table(
    "tasks", sa.MetaData(),
    sa.Column("id", postgresql.UUID(as_uuid=True), primary_key=True,
              server_default=sa.FetchedValue()),
    sa.Column("title", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("type", sa.Text),
    sa.Column("status", sa.Text, server_default=sa.FetchedValue()),
    sa.Column("priority", sa.Integer),
    sa.Column("assigned_worker", sa.Text),
    sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.FetchedValue()),
    sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.FetchedValue()),
)  # fmt: skip


class NotFailed(Exception):
    """Only a task that has failed can be put back to pending."""


class TaskStore:
    """The tasks. Raises sqlalchemy's OperationalError, or TimeoutError, without a database."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def add(self, task: NewTask) -> Row:
        return self._one(sa.insert(tasks).values(**task.model_dump()).returning(tasks))

    def page(self, page: int, limit: int, status: Status | None) -> tuple[list[Row], int]:
        wanted = tasks.c.status == status if status else sa.true()
        query = (
            sa.select(tasks).where(wanted)
            .order_by(tasks.c.created_at.desc(), tasks.c.id.desc())
            .limit(limit).offset((page - 1) * limit)
        )  # fmt: skip
        with self.engine.connect() as connection:
            total = connection.scalar(sa.select(sa.func.count()).select_from(tasks).where(wanted))
            return [dict(row) for row in connection.execute(query).mappings()], total

    def get(self, id: UUID) -> Row | None:
        return self._one(sa.select(tasks).where(tasks.c.id == id))

    def change(self, id: UUID, changes: TaskChanges) -> Row | None:
        given = changes.model_dump(exclude_unset=True)
        with self.engine.begin() as connection:
            found = connection.execute(
                sa.select(tasks.c.status).where(tasks.c.id == id).with_for_update()
            ).first()
            if found is None:
                return None
            if "status" in given:
                if found.status != "failed":
                    raise NotFailed
                given["assigned_worker"] = None
            update = sa.update(tasks).where(tasks.c.id == id).values(
                **given, updated_at=sa.func.now()
            )
            return dict(connection.execute(update.returning(tasks)).mappings().one())

    def delete(self, id: UUID) -> Row | None:
        return self._one(sa.delete(tasks).where(tasks.c.id == id).returning(tasks))

    def ping(self) -> None:
        with self.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    def _one(self, statement: sa.Executable) -> Row | None:
        with self.engine.begin() as connection:
            row = connection.execute(statement).mappings().first()
            return None if row is None else dict(row)


def open_store(database_url: str) -> TaskStore:
    """The engine connects when it is first asked for something."""
    told = conninfo_to_dict(database_url)
    url = sa.URL.create(
        "postgresql+psycopg", told.get("user"), told.get("password"), told.get("host"),
        int(told.get("port", 5432)), told.get("dbname"),
    )
    return TaskStore(sa.create_engine(
        url, pool_size=6, max_overflow=4, pool_timeout=4, pool_pre_ping=True,
        connect_args={"connect_timeout": 3},
    ))  # fmt: skip
