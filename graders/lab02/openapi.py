"""Whether the OpenAPI document is true: each answer is one that it names, and looks as it says.

The requests are those of the other checks, good and bad, and cases drawn from the document itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from graders.harness.api import Api, Request
from graders.harness.lab import Lab
from graders.harness.results import Evidence
from graders.lab02 import bad_input, outage, rows
from graders.lab02.asking import UNKNOWN_ID, send, words
from graders.lab02.document import Document, DocumentError, Operation
from graders.lab02.drawing import Drawer

WHERE = "/openapi.json"
ROUTES = (("POST", "/tasks"), ("GET", "/tasks"), ("GET", "/tasks/x"), ("PUT", "/tasks/x"),
          ("DELETE", "/tasks/x"), ("GET", "/health"))  # fmt: skip
FIELDS = {"POST": ("title", "description", "type", "priority"),
          "PUT": ("title", "description", "priority", "status")}  # fmt: skip
PARAMETERS = ("page", "limit", "status")  # of GET /tasks
BATCH = 8  # requests under way at once


def expect_true(lab: Lab) -> None:
    """Fetch the document and hold answers of all kinds against it. Raises a Finding."""
    api = lab.start_api()
    request = send(api, "GET", WHERE)
    try:
        if api.answer_of(request).status != 200:
            raise DocumentError(f"It was answered with {api.answer_of(request).status}.")
        document = Document(api.answer_of(request).json)
        judge = Judge(api, document)
        judge.expect_routes()
        judge.expect_inputs()
        judge.known_requests()
        judge.drawn_requests()
        judge.while_the_database_is_away()
    except DocumentError as error:
        raise lab.finding(
            "document-unusable",
            f"{WHERE} is an OpenAPI document (3.0 or 3.1) that describes each request.",
            str(error),
        ) from None


class Judge:
    """Sends requests, and holds the answers against the document."""

    def __init__(self, api: Api, document: Document) -> None:
        self.api = api
        self.lab = api.lab
        self.document = document
        self.operations: list[Operation] = []  # the six that the lab asks for

    def expect_routes(self) -> None:
        """The document has all six operations. Raises DocumentError."""
        for method, path in ROUTES:
            operation = self.document.operation(method, path)
            if operation is None:
                raise DocumentError(
                    f"It does not describe {method} {path.replace('/x', '/{id}')}."
                )
            self.operations.append(operation)

    def expect_inputs(self) -> None:
        """The document names what each operation takes. Raises DocumentError."""
        drawer = Drawer(self.document)
        for operation, (method, path) in zip(self.operations, ROUTES, strict=True):
            if method in FIELDS:
                due, where = FIELDS[method], "its body"
                schema = self.document.body_schema(operation)
                whole = None if schema is None else drawer.good(schema)
                named = whole if isinstance(whole, dict) else {}
            elif (method, path) == ("GET", "/tasks"):
                due, where = PARAMETERS, "its query"
                named = [p["name"] for p in operation.parameters if p.get("in") == "query"]
            else:
                continue
            for name in due:
                if name not in named:
                    raise DocumentError(f"It does not say that {operation} takes “{name}” in "
                                        f"{where}.")

    def judge(self, request: Request) -> None:
        """An answer is as the document says, if its request is one that the document knows."""
        operation = self.document.operation(request.method, request.path)
        if operation not in self.operations:
            return
        answer = self.api.answer_of(request)
        named = self.document.statuses(operation)
        if not {str(answer.status), f"{answer.status // 100}XX", f"{answer.status // 100}xx",
                "default"} & set(named):  # fmt: skip
            raise self.lab.finding(
                "undocumented-answer",
                f"The document names each status that {operation} can be answered with.",
                f"It was answered with {answer.status}, and the document names "
                f"{', '.join(named) or 'none'}.",
                self.api.exchange_evidence(request),
            )
        problem = self.document.problem(operation, answer.status, answer.json)
        if problem:
            raise self.lab.finding(
                "answer-not-as-documented",
                f"The answer to {operation} with status {answer.status} is as the document says.",
                problem,
                self.api.exchange_evidence(request),
                self._evidence(operation, answer.status),
            )

    def known_requests(self) -> None:
        """The requests of the other checks, one of each kind that is answered differently."""
        task, failed = rows.add(self.lab), rows.add(self.lab, "failed")
        path = rows.path_of(task)
        for method, where, data in (
            ("POST", "/tasks", {"title": "sort the mail"}),
            ("POST", "/tasks", {"title": "all of it", "description": "x", "type": "email",
                                "priority": 9}),
            ("GET", "/tasks?page=1&limit=2", None),
            ("GET", "/tasks?status=completed", None),
            ("GET", path, None),
            ("PUT", path, {"priority": 3}),
            ("PUT", path, {"status": "pending"}),
            ("PUT", rows.path_of(failed), {"status": "pending"}),
            ("PUT", rows.path_of(UNKNOWN_ID), {"priority": 3}),
            ("GET", rows.path_of(UNKNOWN_ID), None),
            ("DELETE", path, None),
            ("DELETE", path, None),
            ("GET", "/health", None),
        ):  # fmt: skip
            request = send(self.api, method, where, data)
            expected = f"{words(self.api, request)} is not answered with a server's error."
            self.api.expect_no_server_error(request, expected)
            self.judge(request)
        path = rows.path_of(failed)
        self._send_all(
            "bad requests of the other checks",
            ((case.method, case.path, case.body, case.what) for cases in (
                bad_input.bad_tasks(), bad_input.bad_changes(path), bad_input.bad_questions(),
                bad_input.bad_ids(), bad_input.odd_ones(),
            ) for case in cases),
        )  # fmt: skip

    def drawn_requests(self) -> None:
        """Each operation, with good and bad inputs that are drawn from the document."""
        for operation in self.operations:
            self._send_all(f"requests for {operation} that were drawn from the document",
                           self._drawn(operation))

    def while_the_database_is_away(self) -> None:
        """Each of the six operations without a database."""
        task = self.lab.add_task()
        outage.begin(self.api)
        bodies = {"POST": {"title": "too late"}, "PUT": {"priority": 1}}
        sent = [
            self.api.send(method, path.replace("/x", f"/{task.id}"), bodies.get(method))
            for method, path in ROUTES
        ]
        for request in sent:
            self.judge(request)
        self.lab.tell(f"Sent {len(sent)} requests meanwhile.")

    def _send_all(
        self, what: str, cases: Iterator[tuple[str, str, bytes | None, str]]
    ) -> None:
        """Send them, a few at a time; none may be answered with 5xx."""
        count = 0
        batch: list[tuple[Request, str]] = []

        def judge_batch() -> None:
            for request, wrong in batch:
                self.api.expect_no_server_error(
                    request,
                    f"{request.method} with {wrong} is not answered with a server's error.",
                )  # fmt: skip
                self.judge(request)
            batch.clear()

        for method, path, body, wrong in cases:
            batch.append((self.api.send(method, path, body=body), wrong))
            count += 1
            if len(batch) == BATCH:
                judge_batch()
        judge_batch()
        self.lab.tell(f"Sent {count} {what}.")

    def _drawn(self, operation: Operation) -> Iterator[tuple[str, str, bytes | None, str]]:
        drawer = Drawer(self.document)
        schema = self.document.body_schema(operation)
        whole = None if schema is None else drawer.good(schema)
        good = self._values(operation, drawer)

        def case(values: dict[str, Any], body: Any, what: str) -> Any:
            raw = None if schema is None else bad_input.as_json(body)
            return operation.method, self._path(operation, values), raw, what

        yield case(good, whole, "good input")
        needed = {p["name"]: good[p["name"]] for p in operation.parameters if p.get("required")}
        yield case(needed, whole, "nothing that may be left out")
        for parameter in operation.parameters:
            if parameter.get("in") in ("path", "query"):
                for what, value in drawer.bad(parameter.get("schema", {})):
                    yield case({**good, parameter["name"]: value}, whole,
                               f"{what} as its {parameter['name']}")
        if schema is not None:
            for body in drawer.good_bodies(schema):
                yield case(self._values(operation, drawer), body, "a good body")
            for what, body in drawer.bad_bodies(schema):
                yield case(good, body, what)

    def _values(self, operation: Operation, drawer: Drawer) -> dict[str, Any]:
        """A good value for each parameter. The one in a path is the id of a task that is there."""
        values = {}
        for parameter in operation.parameters:
            if parameter.get("in") == "path":
                values[parameter["name"]] = self._new_task()
            elif parameter.get("in") == "query":
                values[parameter["name"]] = drawer.good(parameter.get("schema", {}))
        return values

    def _new_task(self) -> str:
        rows_made = self.lab.sql("INSERT INTO tasks (title) VALUES ('drawn') RETURNING id")
        return str(rows_made[0]["id"])

    def _path(self, operation: Operation, values: dict[str, Any]) -> str:
        path, query = operation.path, []
        for parameter in operation.parameters:
            name = parameter["name"]
            if name not in values:
                continue
            text = values[name] if isinstance(values[name], str) else str(values[name])
            if parameter.get("in") == "path":
                path = path.replace(f"{{{name}}}", quote(text, safe="") or "%20")
            else:
                query.append(f"{quote(name, safe='')}={quote(text, safe='')}")
        return path + ("?" + "&".join(query) if query else "")

    def _evidence(self, operation: Operation, status: int) -> Evidence:
        named = ", ".join(self.document.statuses(operation))
        return Evidence("The document", (f"{operation}: it names {named}",))
