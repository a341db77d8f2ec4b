"""What goes in and what comes out. FastAPI checks requests by it and describes the API by it."""

from __future__ import annotations

from datetime import datetime
from typing import Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["pending", "processing", "completed", "failed"]
T = TypeVar("T")

# TODO 9: the limits. A type can carry its own: Annotated[str, Field(max_length=…), …].
Title = str
Description = str
Type = str
Priority = int

# For a field that may be left out but not be null. Were null its default, the OpenAPI document
# would show it as allowed.
LEFT_OUT = Field(default_factory=lambda: None)


class Body(BaseModel):
    """A request's body: "1" and true are no numbers, and unknown fields are refused."""

    model_config = ConfigDict()  # TODO 9: make that true


class NewTask(Body):
    title: Title
    description: Description | None = None
    type: Type = "generic"
    priority: Priority = 0


class TaskChanges(Body):
    """Only what is to be changed. A failed task may be put back to pending, and nothing else."""

    # TODO 9: a body that changes nothing is refused.
    title: Title = LEFT_OUT
    description: Description | None = LEFT_OUT
    priority: Priority = LEFT_OUT
    status: Literal["pending"] = LEFT_OUT


class Task(BaseModel):
    id: UUID
    title: str
    description: str | None
    type: str
    status: Status
    priority: int
    assigned_worker: str | None
    created_at: datetime
    updated_at: datetime


class TaskPage(BaseModel):
    tasks: list[Task]
    total: int  # of all pages together
    page: int
    limit: int


class Health(BaseModel):
    status: Literal["ok"]


# Every answer is one of these two.


class Answer(BaseModel, Generic[T]):
    data: T
    error: None


class Error(BaseModel):
    message: str


class Failure(BaseModel):
    data: None
    error: Error
