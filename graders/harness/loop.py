"""One asyncio event loop in a background thread: where proxies, the world and log reading live.

Checks run in ordinary threads. They hand work to the loop with `run` and `call`, and never touch
a transport themselves.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop that runs from construction until `stop`.

    `errors` holds what went wrong on the loop with nobody there to hear it. Each entry is a fault
    of the kit, never of a student's worker.
    """

    def __init__(self, name: str = "worker-labs-loop") -> None:
        self.loop = asyncio.new_event_loop()
        self.errors: list[BaseException | str] = []
        self._stopped = False
        self._lock = threading.Lock()
        self.loop.set_exception_handler(self._unheard)
        started = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(started,), name=name, daemon=True)
        self._thread.start()
        started.wait()

    def on_loop(self) -> bool:
        """Whether the caller is the loop's own thread."""
        return threading.current_thread() is self._thread

    def run(self, coro: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and return its result, from another thread.

        Raises TimeoutError after `timeout` seconds (the coroutine is cancelled then), and
        RuntimeError on the loop's own thread, which would wait for itself.
        """
        if self.on_loop():
            coro.close()
            raise RuntimeError("run() was called on the loop's own thread")
        try:
            future = asyncio.run_coroutine_threadsafe(coro, self.loop)
        except RuntimeError:  # the loop is closed
            coro.close()
            raise
        return self._result(future, timeout)

    def call(self, fn: Callable[..., T], *args: Any, timeout: float | None = 30) -> T:
        """Call a plain function on the loop and return its result.

        May be called on the loop's own thread too: then it is an ordinary call.
        """
        if self.on_loop():
            return fn(*args)
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def called() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args))
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(called)
        return self._result(future, timeout)

    def call_soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Have the loop call a plain function soon; nothing happens once the loop has stopped."""
        try:
            self.loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            if not self._stopped:
                raise

    def stop(self) -> None:
        """Cancel what still runs, end the loop, and wait for its thread. Safe to call twice."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.on_loop():
            self._thread.join()

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _result(self, future: concurrent.futures.Future[T], timeout: float | None) -> T:
        try:
            return future.result(timeout)
        except (TimeoutError, concurrent.futures.TimeoutError):
            if not future.done():
                future.cancel()
            raise

    def _main(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(started.set)
        try:
            self.loop.run_forever()
        finally:
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def _unheard(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or context.get("message", "unknown"))
