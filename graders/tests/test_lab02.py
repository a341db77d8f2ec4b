"""Lab 02: its migrations build the one schema, and what its checks are made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from graders.harness.check import Finding
from graders.harness.database import Database, DatabaseFactory
from graders.harness.servers import Server
from graders.lab02 import schema
from graders.lab02.document import Document, DocumentError
from graders.lab02.drawing import Drawer
from graders.lab02.folders import Folder

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = (ROOT / "labs/lab03/schema.sql").read_text(encoding="utf-8")


# The schema


@pytest.fixture(scope="module")
def empty(server: Server) -> Iterator[DatabaseFactory]:
    factory = DatabaseFactory(server, "", "lab02tests", ahead=1, owned=True)
    yield factory
    factory.close()


def described(database: Database) -> schema.Described:
    """As schema.describe, without a check around it."""

    def catalogues(database: Database, queries: dict[str, str]) -> schema.Described:
        with psycopg.connect(database.admin_url, row_factory=dict_row) as connection:
            return {name: connection.execute(query).fetchall() for name, query in queries.items()}

    return schema.describe(SimpleNamespace(catalogues=catalogues), database)


def made(empty: DatabaseFactory, sql: str) -> schema.Described:
    """The schema that this SQL makes of an empty database."""
    database = empty.new()
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute(sql)
    return described(database)


def test_both_labs_have_the_same_schema() -> None:
    assert (ROOT / "labs/lab02/schema.sql").read_text(encoding="utf-8") == SCHEMA


def test_the_migrations_build_exactly_the_schema(empty: DatabaseFactory, server: Server) -> None:
    database = empty.new()
    url = database.worker_url(server.host, server.port)
    folder = ROOT / "solutions/lab02"
    run(
        [sys.executable, "-m", "migrate", "up"], cwd=folder, check=True, capture_output=True,
        env={"DATABASE_URL": url, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    found, due = described(database), made(empty, SCHEMA)
    bookkeeping = {"schema_migrations", "schema_migrations_pkey"}
    found["relations"] = [r for r in found["relations"] if r["name"] not in bookkeeping]
    assert found == due


def test_the_schema_has_no_difference_to_itself(empty: DatabaseFactory) -> None:
    due = made(empty, SCHEMA)
    assert due["columns"]
    assert due["indexes"]
    assert schema.compare(due, due) == ""


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("title           text        NOT NULL", "title text CONSTRAINT it_is NOT NULL"),
        ("'pending', 'processing', 'completed', 'failed'",
         "'failed', 'completed', 'processing', 'pending'"),
        ("(status IN ('pending', 'processing', 'completed', 'failed'))",
         "(status = 'failed' OR status = 'pending' OR status = 'completed' "
         "OR status = 'processing')"),
        ("created_at      timestamptz NOT NULL DEFAULT now()",
         "created_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP NOT NULL"),
        ("tasks_pending ON tasks (created_at)", "poll ON tasks (created_at, id)"),
        (" WHERE status = 'pending'",
         " WHERE status IN ('pending'); CREATE INDEX ON tasks (created_at DESC, id)"),
    ],
)  # fmt: skip
def test_the_same_in_other_words_is_no_difference(
    empty: DatabaseFactory, text: str, replacement: str
) -> None:
    assert SCHEMA.count(text) == 1
    found = made(empty, SCHEMA.replace(text, replacement))
    assert schema.compare(found, made(empty, SCHEMA)) == ""


@pytest.mark.parametrize(
    ("text", "replacement", "difference"),
    [
        ("    description     text,\n", "", "the table has no column “description”"),
        ("description     text,", "description text, colour text,",
         "the table has a column “colour” too many"),
        ("priority        int ", "priority bigint ",
         "the column “priority” is of the type bigint, not integer"),
        ("title           text        NOT NULL", "title text",
         "the column “title” may be null"),
        ("DEFAULT 'generic'", "DEFAULT 'email'",
         "the default of the column “type” is 'email'::text, not 'generic'::text"),
        ("uuid        PRIMARY KEY", "uuid NOT NULL", "the primary key on id is missing"),
        (", 'failed')", ")",
         "no check on status allows completed, failed, pending, processing and nothing else"),
        ("NOT NULL DEFAULT 0", "NOT NULL DEFAULT 0 CHECK (priority < 10)",
         "there is a check too many: CHECK ((priority < 10))"),
        ("title           text        NOT NULL", "title text NOT NULL UNIQUE",
         "there is a unique constraint too many: UNIQUE (title)"),
        (" WHERE status = 'pending'", "",
         "there is no index on created_at of the pending tasks alone"),
        ("ON tasks (created_at)", "ON tasks (priority)",
         "there is no index on created_at of the pending tasks alone"),
    ],
)  # fmt: skip
def test_a_difference_is_named(
    empty: DatabaseFactory, text: str, replacement: str, difference: str
) -> None:
    assert SCHEMA.count(text) == 1
    found = made(empty, SCHEMA.replace(text, replacement))
    assert schema.compare(found, made(empty, SCHEMA)) == difference


def test_an_empty_database_has_no_table(empty: DatabaseFactory) -> None:
    assert schema.compare(made(empty, ""), made(empty, SCHEMA)) == "there is no table “tasks”"


# OpenAPI documents

ENVELOPE = {
    "type": "object", "required": ["data", "error"],
    "properties": {"data": {"$ref": "#/components/schemas/Task"}, "error": {"type": "null"}},
}  # fmt: skip
TASK = {
    "type": "object", "required": ["title", "size"], "additionalProperties": False,
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 5},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "size": {"type": "integer", "minimum": 2, "maximum": 3},
        "kind": {"enum": ["big", "small"]},
    },
}  # fmt: skip


def document(response: Any = None, version: str = "3.1.0", **more: Any) -> dict[str, Any]:
    response = response or {"content": {"application/json": {"schema": ENVELOPE}}}
    return {
        "openapi": version,
        "paths": {
            "/tasks/{id}": {
                "parameters": [{"$ref": "#/components/parameters/id"}],
                "put": {
                    "requestBody": {"content": {"application/json": {
                        "schema": {"$ref": "#/components/schemas/Task"},
                    }}},
                    "responses": {"200": response, "4XX": {"$ref": "#/components/responses/Bad"}},
                },
            },
            "/tasks/mine": {"put": {"responses": {"default": response}}},
        },
        "components": {
            "schemas": {"Task": TASK},
            "parameters": {"id": {"name": "id", "in": "path", "required": True,
                                  "schema": {"type": "string", "format": "uuid"}}},
            "responses": {"Bad": {"content": {"application/problem+json": {"schema": {
                "type": "object", "required": ["error"], "properties": {"error": {
                    "type": "object"}},
            }}}}},
        },
        **more,
    }  # fmt: skip


GOOD = {"data": {"title": "tidy", "note": None, "size": 2}, "error": None}


def test_a_path_without_parameters_goes_first() -> None:
    told = Document(document())
    assert str(told.operation("PUT", "/tasks/mine?a=1")) == "PUT /tasks/mine"
    assert str(told.operation("PUT", "/tasks/7")) == "PUT /tasks/{id}"
    assert told.operation("GET", "/tasks/7") is None
    assert told.operation("PUT", "/tasks/7/8") is None


def test_an_answer_is_held_against_its_schema() -> None:
    told = Document(document())
    operation = told.operation("PUT", "/tasks/7")
    assert told.statuses(operation) == ["200", "4XX"]
    assert told.problem(operation, 200, GOOD) == ""
    assert told.problem(operation, 422, {"error": {}}) == ""
    assert "'error' is a required property" in told.problem(operation, 404, {})
    wrong = {**GOOD, "data": {"title": "tidy", "size": 4}}
    assert told.problem(operation, 200, wrong).startswith("At “data.size”: 4 is greater than")


def test_a_schema_that_anything_fits_is_a_problem() -> None:
    told = Document(document({"content": {"application/json": {"schema": {"type": "object"}}}}))
    operation = told.operation("PUT", "/tasks/7")
    assert "says nothing" in told.problem(operation, 200, GOOD)


def test_a_status_without_content_is_a_problem() -> None:
    told = Document(document({"description": "It was done"}))
    assert "says nothing" in told.problem(told.operation("PUT", "/tasks/7"), 200, GOOD)


def test_version_3_0_is_read_in_its_own_words() -> None:
    nullable = {"type": "object", "properties": {
        "data": {"type": "integer", "nullable": True, "minimum": 1, "exclusiveMinimum": True},
        "error": {"type": "string", "nullable": True},
    }}  # fmt: skip
    response = {"content": {"application/json": {"schema": nullable}}}
    told = Document(document(response, version="3.0.3"))
    operation = told.operation("PUT", "/tasks/7")
    assert told.problem(operation, 200, {"data": None, "error": None}) == ""
    assert told.problem(operation, 200, {"data": 2, "error": "x"}) == ""
    assert told.problem(operation, 200, {"data": 1, "error": None}) != ""


@pytest.mark.parametrize(
    "told",
    [None, [], {}, {"openapi": "2.0", "paths": {}}, {"swagger": "2.0", "paths": {}},
     {"openapi": "3.1.0"}, document(components={}),
     {"openapi": "3.1.0", "paths": {"/a": {"$ref": "other.yaml"}}},
     {"openapi": "3.1.0", "paths": {"/a": {"$ref": "#/paths/~1a"}}}],
)  # fmt: skip
def test_a_document_that_cannot_be_used(told: Any) -> None:
    with pytest.raises(DocumentError, match=r"\.$"):
        Document(told)


@pytest.mark.parametrize(
    "broken", [{"$ref": "#/components/schemas/None"}, {"type": "strng"}, {"pattern": "("}]
)
def test_a_schema_that_cannot_be_used(broken: Any) -> None:
    schema = {**ENVELOPE, "properties": {"data": broken, "error": {"type": "null"}}}
    told = Document(document({"content": {"application/json": {"schema": schema}}}))
    with pytest.raises(DocumentError, match="cannot be used"):
        told.problem(told.operation("PUT", "/tasks/7"), 200, {"data": "x", "error": None})


def test_cases_are_drawn_from_a_schema() -> None:
    told = Document(document())
    drawer = Drawer(told)
    schema = told.body_schema(told.operation("PUT", "/tasks/7"))
    whole = drawer.good(schema)
    assert whole == {"title": "drawn", "note": "drawn from the document", "size": 2, "kind": "big"}
    bodies = list(drawer.good_bodies(schema))
    assert {"title": "drawn", "size": 2, "kind": "big"} in bodies
    bad = dict(drawer.bad_bodies(schema))
    assert bad["no “size”"] == {key: whole[key] for key in ("title", "note", "kind")}
    assert bad["the number 4 as its “size”"]["size"] == 4
    assert bad["the number 1 as its “size”"]["size"] == 1
    assert len(bad["a text that is too long as its “title”"]["title"]) == 6
    assert bad["a field that there is not"]["no-such-field"] == 1
    assert bad["none of the values that it may have as its “kind”"]["kind"] == "no-such-value"


def test_a_schema_that_holds_itself_is_drawn_to_an_end() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#/components/schemas/Task"}}}
    told = Document(document(components={**document()["components"], "schemas": {"Task": tree}}))
    whole = Drawer(told).good({"$ref": "#/components/schemas/Task"})
    assert isinstance(whole["child"], dict)


@pytest.mark.parametrize("there", ["a file", "a link to nothing"])
def test_migrations_that_are_no_folder_are_a_finding(tmp_path: Path, there: str) -> None:
    place = tmp_path / "migrations"
    if there == "a file":
        place.write_text("they are elsewhere")
    else:
        place.symlink_to(tmp_path / "no such folder")
    lab = SimpleNamespace(
        check_name="migrates", session=SimpleNamespace(private_copy=lambda _: tmp_path),
        finding=Finding,
    )
    with pytest.raises(Finding) as found:
        Folder.copied(lab)
    assert (found.value.code, found.value.seen) == ("not-applied", "It is no folder.")


def test_a_migration_is_added_after_the_last_one(tmp_path: Path) -> None:
    lab = SimpleNamespace(
        check_name="migrates", session=SimpleNamespace(private_copy=lambda _: tmp_path)
    )
    assert Folder.copied(lab).next == "001"
    place = tmp_path / "migrations"
    place.mkdir()
    (place / "0009_first.up.sql").write_text("SELECT 1;")
    folder = Folder.copied(lab)
    assert folder.write("probe", "SELECT 2;", "SELECT 3;", later=1) == "0011_probe.up.sql"
    assert (place / "0011_probe.down.sql").read_text() == "SELECT 3;"
    assert folder.count == 2
