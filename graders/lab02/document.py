"""An OpenAPI document: what it says of a request's answer, and cases drawn from it.

Versions 3.0 and 3.1. Schemas of 3.1 are JSON Schema as it is (2020-12); those of 3.0 are rewritten
where they differ (nullable, exclusive bounds). References are followed within the document.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

# Jupyter brings this package, and jsonschema has it compile a grammar for a second or more as soon
# as it is loaded, while everything else in the grader stands still. Only “uuid” is checked here.
sys.modules.setdefault("rfc3987_syntax", None)

from jsonschema import Draft202012Validator, FormatChecker  # noqa: E402
from jsonschema.exceptions import SchemaError, UnknownType, best_match  # noqa: E402
from referencing import Registry, Resource  # noqa: E402
from referencing.exceptions import Unresolvable  # noqa: E402
from referencing.jsonschema import DRAFT202012  # noqa: E402

METHODS = ("get", "put", "post", "delete", "patch")
NAME = "urn:openapi"  # of the document, where its references are resolved
DEEPEST = 20  # references that lead to one another
# An answer in the one shape cannot be this. A schema that takes it describes nothing.
NONSENSE = {"data": 42, "error": 42}


class DocumentError(Exception):
    """The document cannot be used; the text says why, in a sentence."""


@dataclass(frozen=True)
class Operation:
    """One method of one path, and where in the document it stands."""

    method: str  # GET
    path: str  # /tasks/{id}
    pointer: str
    told: Mapping[str, Any]
    parameters: tuple[Mapping[str, Any], ...]  # resolved

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def matches(self, method: str, path: str) -> bool:
        """Whether a request with this method and path (without query) is one of this operation."""
        pattern = "".join(
            "[^/]+" if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{[^}]*\})", self.path)
        )
        return method == self.method and re.fullmatch(pattern, path) is not None


class Document:
    """An OpenAPI document that was read. Raises DocumentError where it cannot be used."""

    def __init__(self, told: Any) -> None:
        if not isinstance(told, dict):
            raise DocumentError("It is no JSON object.")
        self.version = str(told.get("openapi", ""))
        if not self.version.startswith("3."):
            raise DocumentError("Its “openapi” names no version 3.0 or 3.1.")
        if not isinstance(told.get("paths"), dict):
            raise DocumentError("It has no “paths”.")
        self.told = _modern(told) if self.version.startswith("3.0") else told
        resource = Resource(contents=self.told, specification=DRAFT202012)
        self._registry = Registry().with_resource(NAME, resource)
        self.operations = tuple(self._operations())

    def operation(self, method: str, path: str) -> Operation | None:
        """The operation that a request is one of; a path without parameters goes first."""
        path = path.partition("?")[0]
        found = [each for each in self.operations if each.matches(method, path)]
        return min(found, key=lambda each: each.path.count("{"), default=None)

    def statuses(self, operation: Operation) -> list[str]:
        """The statuses that the document names for it: "200", "4XX", "default"."""
        return [str(status) for status in operation.told.get("responses", {})]

    def problem(self, operation: Operation, status: int, body: Any) -> str:
        """In what an answer (as JSON) is not what the document says of it; "" if in nothing.

        The status has to be one that the document names.
        """
        named = self.statuses(operation)
        key = next(k for k in (str(status), f"{status // 100}XX", f"{status // 100}xx", "default")
                   if k in named)  # fmt: skip
        response, pointer = self._follow(
            operation.told["responses"][key], f"{operation.pointer}/responses/{key}"
        )
        content = response.get("content", {})
        kind = next((kind for kind in content if "json" in kind or kind == "*/*"), None)
        if kind is None or "schema" not in content[kind]:
            return "The document says nothing of what is in it."
        validator = self._validator(f"{pointer}/content/{_escaped(kind)}/schema")
        try:
            if validator.is_valid(NONSENSE):
                shown = json.dumps(NONSENSE)
                return f"The schema in the document says nothing: it would also take {shown}."
            error = best_match(validator.iter_errors(body))
        except (Unresolvable, SchemaError, UnknownType, re.error) as error:
            text = str(error).strip().splitlines()[0]
            raise DocumentError(f"A schema of {operation} cannot be used: {text}") from None
        if error is None:
            return ""
        place = ".".join(str(part) for part in error.absolute_path)
        text = error.message if len(error.message) <= 300 else error.message[:300] + "…"
        return f"At “{place}”: {text}." if place else f"{text}."

    def body_schema(self, operation: Operation) -> Any:
        """The schema of an operation's JSON body; None if it takes none."""
        body = operation.told.get("requestBody")
        if body is None:
            return None
        content = self._follow(body, "")[0].get("content", {})
        return next((v.get("schema", {}) for k, v in content.items() if "json" in k), None)

    def resolve(self, schema: Any) -> Mapping[str, Any]:
        """A schema, its reference followed; an empty one for what is none."""
        if not isinstance(schema, dict):
            return {}
        return self._follow(schema, "")[0]

    # Reading it

    def _operations(self) -> Iterator[Operation]:
        for path, item in self.told["paths"].items():
            item, pointer = self._follow(item, f"/paths/{_escaped(path)}")
            for method in METHODS:
                told = item.get(method)
                if not isinstance(told, dict):
                    continue
                if not isinstance(told.get("responses", {}), dict):
                    raise DocumentError(f"{method.upper()} {path}: its “responses” are no object.")
                given = [*item.get("parameters", ()), *told.get("parameters", ())]
                resolved = [self._follow(each, "")[0] for each in given]
                yield Operation(method.upper(), path, f"{pointer}/{method}", told, tuple(resolved))

    def _follow(self, told: Any, pointer: str) -> tuple[Mapping[str, Any], str]:
        """What a reference refers to, and where that stands."""
        for _ in range(DEEPEST):
            if not isinstance(told, dict):
                raise DocumentError(f"At {pointer or 'a reference'} there is no object.")
            if "$ref" not in told:
                return told, pointer
            reference = told["$ref"]
            if not isinstance(reference, str) or not reference.startswith("#/"):
                raise DocumentError(f"The reference {reference!r} leads out of the document.")
            pointer, told = reference[1:], self.told
            for part in pointer[1:].split("/"):
                key = part.replace("~1", "/").replace("~0", "~")
                if not isinstance(told, dict) or key not in told:
                    raise DocumentError(f"The reference {reference} leads to nothing.")
                told = told[key]
        raise DocumentError(f"The reference {pointer} leads round in a circle.")

    def _validator(self, pointer: str) -> Draft202012Validator:
        return Draft202012Validator(
            {"$ref": f"{NAME}#{quote(pointer, safe='/~')}"}, registry=self._registry,
            format_checker=FormatChecker(["uuid"]),
        )  # fmt: skip


def _escaped(key: str) -> str:
    """A key as part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _modern(told: Any) -> Any:
    """A document of version 3.0, with its schemas in the words of 3.1."""
    if isinstance(told, list):
        return [_modern(each) for each in told]
    if not isinstance(told, dict):
        return told
    new = {key: _modern(value) for key, value in told.items()}
    for bound in ("Minimum", "Maximum"):
        if new.get(f"exclusive{bound}") is True and bound.lower() in new:
            new[f"exclusive{bound}"] = new.pop(bound.lower())
        elif isinstance(new.get(f"exclusive{bound}"), bool):
            del new[f"exclusive{bound}"]
    if new.pop("nullable", False) is True:
        return {"anyOf": [new, {"type": "null"}]}
    return new
