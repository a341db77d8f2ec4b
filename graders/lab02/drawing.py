"""Cases drawn from a schema: a value that fits it, and values that do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from graders.lab02.document import DEEPEST, Document

TEXT = "drawn from the document "  # long enough to be cut, and plainly a test's
SOME_ID = "0f0e0d0c-0000-4000-8000-a1b2c3d4e5f6"
OF_FORMAT = {"uuid": SOME_ID, "date-time": "2024-02-29T12:00:00Z", "date": "2024-02-29",
             "email": "someone@example.org", "uri": "https://example.org/"}  # fmt: skip
HUGE = 10**30


class Drawer:
    """Draws values from the schemas of one document."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def good(self, schema: Any, depth: int = 0) -> Any:
        """A value that fits the schema, with every property that it names."""
        told = self._plain(schema, depth)
        if "const" in told:
            return told["const"]
        for given in (told.get("enum"), told.get("examples")):
            if isinstance(given, list) and given:
                return given[0]
        if "example" in told:
            return told["example"]
        kind = self._kind(told)
        if kind == "object":
            named = told.get("properties", {})
            return {name: self.good(each, depth + 1) for name, each in named.items()}
        if kind == "array":
            return [self.good(told.get("items"), depth + 1)] * int(told.get("minItems", 0))
        if kind in ("integer", "number"):
            return self._number(told)
        if kind == "boolean":
            return True
        if kind == "null":
            return None
        return self._text(told)

    def good_bodies(self, schema: Any) -> Iterator[Any]:
        """A body with every property, and one with each of the optional ones alone."""
        whole = self.good(schema)
        yield whole
        if isinstance(whole, dict):
            needed = self._plain(schema).get("required", [])
            for name in whole:
                yield {key: whole[key] for key in whole if key in (*needed, name)}

    def bad(self, schema: Any) -> Iterator[tuple[str, Any]]:
        """Values that do not fit, and what each of them is."""
        told = self._plain(schema)
        kind = self._kind(told)
        if kind == "string":
            yield "a number", 7
            if isinstance(told.get("maxLength"), int):
                yield "a text that is too long", "x" * (told["maxLength"] + 1)
            if isinstance(told.get("minLength"), int) and told["minLength"] > 0:
                yield "a text that is too short", "x" * (told["minLength"] - 1)
            yield "a text with a NUL character", "a\0b"
            yield "a list", ["x"]
        elif kind in ("integer", "number"):
            yield "a text", "many"
            yield from self._out_of_bounds(told)
        elif kind == "object":
            yield "a list", []
        else:
            yield "an object", {}
        if "enum" in told or "const" in told:
            yield "none of the values that it may have", "no-such-value"

    def bad_bodies(self, schema: Any) -> Iterator[tuple[str, Any]]:
        """Bodies that do not fit, and what is wrong with each."""
        whole = self.good(schema)
        yield "a number as its body", 7
        if not isinstance(whole, dict):
            return
        told = self._plain(schema)
        for name, each in told.get("properties", {}).items():
            for what, value in self.bad(each):
                yield f"{what} as its “{name}”", {**whole, name: value}
        for name in told.get("required", []):
            yield f"no “{name}”", {key: whole[key] for key in whole if key != name}
        if told.get("additionalProperties") is False:
            yield "a field that there is not", {**whole, "no-such-field": 1}

    # What a schema says

    def _plain(self, schema: Any, depth: int = 0) -> Mapping[str, Any]:
        """A schema without references, and of several that it may be the first that is not null."""
        if depth > DEEPEST:
            return {}
        told = self._document.resolve(schema)
        for word in ("anyOf", "oneOf"):
            several = [self._plain(each, depth + 1) for each in told.get(word, ())]
            chosen = [each for each in several if self._kind(each) != "null"] or several
            if chosen:
                return {**told, **chosen[0]}
        if told.get("allOf"):
            merged: dict[str, Any] = {key: told[key] for key in told if key != "allOf"}
            for each in told["allOf"]:
                part = self._plain(each, depth + 1)
                merged = {
                    **merged, **part,
                    "properties": {**merged.get("properties", {}), **part.get("properties", {})},
                    "required": [*merged.get("required", []), *part.get("required", [])],
                }
            return merged
        return told

    def _kind(self, told: Mapping[str, Any]) -> str:
        kind = told.get("type")
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in told else "string"
        return str(kind)

    def _number(self, told: Mapping[str, Any]) -> int:
        least, most = self._bounds(told)
        return max(1, least) if most is None else min(max(1, least), most)

    def _bounds(self, told: Mapping[str, Any]) -> tuple[int, int | None]:
        least = told.get("minimum", told.get("exclusiveMinimum", 0) + 1
                         if "exclusiveMinimum" in told else 0)  # fmt: skip
        most = told.get("maximum", told["exclusiveMaximum"] - 1
                        if "exclusiveMaximum" in told else None)  # fmt: skip
        return int(least), None if most is None else int(most)

    def _out_of_bounds(self, told: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        least, most = self._bounds(told)
        if "minimum" in told or "exclusiveMinimum" in told:
            yield f"the number {least - 1}", least - 1
        if most is not None:
            yield f"the number {most + 1}", most + 1
        yield "a number of 31 digits", HUGE

    def _text(self, told: Mapping[str, Any]) -> str:
        if told.get("format") in OF_FORMAT:
            return OF_FORMAT[told["format"]]
        least, most = int(told.get("minLength", 0)), told.get("maxLength")
        text = TEXT if len(TEXT) >= least else TEXT + "x" * (least - len(TEXT))
        return (text if most is None else text[: int(most)]).strip() or "x"
