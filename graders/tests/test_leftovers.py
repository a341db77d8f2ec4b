"""What is cleared away behind who could not do it, and what never is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.harness import keeper_program, leftovers
from graders.harness.leftovers import Ledger


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    ledger.close()


def test_what_was_closed_in_order_is_not_told(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(leftovers.LEDGER, str(ledger.fd))
    leftovers.note("a", folder="/x/wl-a")
    leftovers.note("b", folder="/x/wl-b")
    leftovers.note("b", container="label=b")
    leftovers.note("a", closed=True)
    assert ledger.read() == [
        {"run": "b", "folder": "/x/wl-b"}, {"run": "b", "container": "label=b"}]


@pytest.mark.parametrize("value", ["", "none", "-1", "99999"])
def test_without_a_ledger_nothing_is_written(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(leftovers.LEDGER, value)
    leftovers.note("a", folder="/x")


def test_nonsense_in_a_ledger_is_passed_over(ledger: Ledger, tmp_path: Path) -> None:
    """Whoever runs as the same user can write into it."""
    ours, other = tmp_path / "wl-run", tmp_path / "thesis"
    for folder in (ours, other):
        folder.mkdir()
    for line in (
        b"[" * 100_000, b"{" * 9000, b"\xff\xfe", b"null", b"7", b"[]", b"{}", b'{"keeper": 1}',
        b'{"keeper": ["x", 1]}', b'{"keeper": [1, 0]}', b'{"keeper": [1, 1e400]}',
        b'{"keeper": [-7, 5]}', b'{"keeper": [99999999999999999999999, 5]}', b'{"folder": null}',
        b'{"run": {}, "folder": 5}', b'{"folder": "\\u0000"}',
        json.dumps({"folder": str(other)}).encode(), json.dumps({"folder": str(ours)}).encode(),
        b'{"folder": "/cut off',
    ):
        os.write(ledger.fd, line + b"\n")
    leftovers.settle(ledger.read())
    assert not ours.exists()
    assert other.exists()  # is called as no folder of the kit


def test_a_process_that_has_the_number_of_a_keeper_is_let_alone(ledger: Ledger) -> None:
    ours = subprocess.Popen(["sleep", "600"])
    try:
        pid, began = leftovers.known(ours.pid)
        assert leftovers.known(ours.pid) == [pid, began]
        leftovers.settle([{"run": "a", "keeper": [pid, began - 1]}])
        assert ours.poll() is None
    finally:
        ours.kill()
        ours.wait()
    assert leftovers.known(ours.pid) == [ours.pid, -1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no subreapers")
def test_only_what_a_keeper_has_started_is_an_orphan() -> None:
    ours = subprocess.Popen(["sleep", "600"], start_new_session=True)
    limit = keeper_program.TAG + 7
    kept = subprocess.Popen(
        ["sleep", "600"], start_new_session=True,
        preexec_fn=lambda: keeper_program.resource.setrlimit(
            keeper_program.resource.RLIMIT_FSIZE, (limit, limit)),
    )
    try:
        leftovers.end_orphans()
        assert ours.poll() is None
        assert not Path(f"/proc/{kept.pid}").exists()
    finally:
        ours.kill()
        ours.wait()


@pytest.mark.parametrize("kind", ["fifo", "endless", "folder", "large", "garbled", "of others"])
def test_a_folder_goes_whatever_lies_in_it(tmp_path: Path, kind: str) -> None:
    """Where PostgreSQL's data lie, a submission may have put anything."""
    folder = tmp_path / f"{keeper_program.POSTGRES_FOLDER}x"
    (folder / "data").mkdir(parents=True)
    told = folder / "data" / "postmaster.pid"
    if kind == "fifo":
        os.mkfifo(told)
    elif kind == "endless":
        told.symlink_to("/dev/zero")
    elif kind == "folder":
        told.mkdir()
    else:
        number = {"large": "9" * 40, "garbled": "x y z", "of others": "0"}[kind]
        told.write_text("\n" * 6 + f"1 {number}\n")
    keeper_program.remove_folder(str(folder))
    assert not folder.exists()
