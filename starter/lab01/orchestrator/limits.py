"""A limit on the size of a request's body."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY = 1_000_000  # bytes


class BodyLimit:
    """Middleware that refuses a body once more than MAX_BODY has come, announced or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # TODO 8: hand on a `receive` that counts the bytes and raises HTTPException(413, …).
        await self.app(scope, receive, send)
