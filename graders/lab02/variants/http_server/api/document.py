"""What the API says of itself, in OpenAPI 3.0."""

TASK = {
    "type": "object",
    "required": ["id", "title", "description", "type", "status", "priority", "assigned_worker",
                 "created_at", "updated_at"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "title": {"type": "string"},
        "description": {"type": "string", "nullable": True},
        "type": {"type": "string"},
        "status": {"$ref": "#/components/schemas/Status"},
        "priority": {"type": "integer", "minimum": -1, "exclusiveMinimum": True, "maximum": 9},
        "assigned_worker": {"type": "string", "nullable": True},
        "created_at": {"type": "string", "format": "date-time"},
        "updated_at": {"type": "string", "format": "date-time"},
    },
}


def _fields(*names, required=()):
    known = {
        "title": {"type": "string", "minLength": 1, "maxLength": 200},
        "description": {"type": "string", "nullable": True, "maxLength": 10000},
        "type": {"type": "string", "minLength": 1, "maxLength": 50},
        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
        "status": {"type": "string", "enum": ["pending"]},
    }
    schema = {"type": "object", "additionalProperties": False, "required": list(required),
              "properties": {name: known[name] for name in names}}
    if not required:
        del schema["required"]
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answer(data):
    schema = {
        "type": "object", "required": ["data", "error"],
        "properties": {"data": data, "error": {"type": "string", "nullable": True, "enum": [None]}},
    }
    return {"description": "It was done", "content": {"application/json": {"schema": schema}}}


ONE = _answer({"$ref": "#/components/schemas/Task"})
FAILED = {"$ref": "#/components/responses/Failed"}
OTHERS = {"4XX": FAILED, "5XX": FAILED}
ID = {"$ref": "#/components/parameters/id"}


def _query(name, **schema):
    return {"name": name, "in": "query", "schema": schema}


DOCUMENT = {
    "openapi": "3.0.3",
    "info": {"title": "Tasks", "version": "1"},
    "paths": {
        "/tasks": {
            "post": {
                "requestBody": _fields("title", "description", "type", "priority",
                                       required=["title"]),
                "responses": {"201": ONE, **OTHERS},
            },
            "get": {
                "parameters": [
                    _query("page", type="integer", minimum=1, default=1),
                    _query("limit", type="integer", minimum=1, maximum=100, default=20),
                    _query("status", type="string",
                           enum=["pending", "processing", "completed", "failed"]),
                ],
                "responses": {
                    "200": _answer({
                        "type": "object",
                        "required": ["tasks", "total", "page", "limit"],
                        "properties": {
                            "tasks": {"type": "array",
                                      "items": {"$ref": "#/components/schemas/Task"}},
                            "total": {"type": "integer"},
                            "page": {"type": "integer"},
                            "limit": {"type": "integer"},
                        },
                    }),
                    **OTHERS,
                },
            },
        },
        "/tasks/{id}": {
            "parameters": [ID],
            "get": {"responses": {"200": ONE, **OTHERS}},
            "put": {
                "requestBody": _fields("title", "description", "priority", "status"),
                "responses": {"200": ONE, **OTHERS},
            },
            "delete": {"responses": {"200": ONE, **OTHERS}},
        },
        "/health": {"get": {"responses": {"200": _answer({"type": "object"}), "default": FAILED}}},
    },
    "components": {
        "parameters": {
            "id": {"name": "id", "in": "path", "required": True,
                   "schema": {"type": "string", "format": "uuid"}},
        },
        "responses": {
            "Failed": {
                "description": "It was not done",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Failure"}},
                },
            },
        },
        "schemas": {
            "Task": TASK,
            "Status": {"type": "string", "enum": ["pending", "processing", "completed", "failed"]},
            "Failure": {
                "type": "object",
                "required": ["data", "error"],
                "properties": {
                    "data": {"type": "object", "nullable": True, "maxProperties": 0},
                    "error": {
                        "type": "object",
                        "required": ["message"],
                        "properties": {"message": {"type": "string"}},
                    },
                },
            },
        },
    },
}
