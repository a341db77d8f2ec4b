"""What goes in and what comes out. FastAPI checks requests by it and describes the API by it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Status = Literal["pending", "processing", "completed", "failed"]
T = TypeVar("T")


def _without_nul(text: str) -> str:
    if "\0" in text:  # PostgreSQL's text cannot hold it
        raise ValueError("must not contain the NUL character")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


_WITHOUT_NUL, _NOT_BLANK = AfterValidator(_without_nul), AfterValidator(_not_blank)

Title = Annotated[str, Field(min_length=1, max_length=200), _WITHOUT_NUL, _NOT_BLANK]
Description = Annotated[str, Field(max_length=10_000), _WITHOUT_NUL]
Type = Annotated[str, Field(min_length=1, max_length=50), _WITHOUT_NUL, _NOT_BLANK]
Priority = Annotated[int, Field(ge=0, le=9)]

# For a field that may be left out but not be null. Were null its default, the OpenAPI document
# would show it as allowed.
LEFT_OUT = Field(default_factory=lambda: None)


class Body(BaseModel):
    """A request's body: "1" and true are no numbers, and unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


class NewTask(Body):
    title: Title
    description: Description | None = None
    type: Type = "generic"
    priority: Priority = 0


class TaskChanges(Body):
    """Only what is to be changed. A failed task may be put back to pending, and nothing else."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    title: Title = LEFT_OUT
    description: Description | None = LEFT_OUT
    priority: Priority = LEFT_OUT
    status: Literal["pending"] = LEFT_OUT

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must change at least one of title, description, priority, status")
        return self


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
