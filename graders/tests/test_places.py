"""Places for work that mostly waits."""

from __future__ import annotations

import os
import threading
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from graders.classes import runner
from graders.harness import places, settings
from graders.harness.history import History
from graders.harness.places import Bound, Places, Processor
from graders.harness.servers.base import poll

Times = namedtuple("Times", "user idle")


class Told:
    """A processor that has time to spare as often as it is told."""

    def __init__(self, spare: int) -> None:
        self.left = spare

    def spare(self) -> bool:
        self.left -= 1
        return self.left >= 0


class Work:
    """Threads that each take a place and keep it until they are let go."""

    def __init__(self, taken: Places, count: int) -> None:
        self.began: list[int] = []
        self._changed = threading.Condition()
        self._let: set[int] = set()
        self._pool = ThreadPoolExecutor(count)
        for number in range(count):
            # One after the other, so that it is known in which order they asked.
            waiting = threading.Event()
            self._pool.submit(self._one, taken, number, waiting)
            waiting.wait(10)
            assert poll(lambda n=number: n in self.began or len(taken._waiting) == n + 1
                        - len(self.began), 60)

    def _one(self, taken: Places, number: int, waiting: threading.Event) -> None:
        waiting.set()
        with taken.place(), self._changed:
            self.began.append(number)
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._let, 30)

    def begun(self, count: int) -> list[int]:
        """Those that have begun, once there are so many."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.began) >= count, 10)
            return list(self.began)

    def let(self, *numbers: int) -> None:
        with self._changed:
            self._let.update(numbers)
            self._changed.notify_all()

    def close(self) -> None:
        self.let(*range(100))
        self._pool.shutdown()


@pytest.fixture
def work() -> Iterator[list[Work]]:
    made: list[Work] = []
    yield made
    for each in made:
        each.close()


def test_a_busy_processor_gets_no_more_than_the_least(work: list[Work]) -> None:
    work.append(each := Work(Places(2, Bound(5), Told(0)), 4))
    assert sorted(each.begun(2)) == [0, 1]
    each.let(0)
    assert each.begun(3)[2] == 2
    each.let(1)
    assert each.begun(4)[3] == 3


def test_an_idle_processor_gets_more_up_to_the_most(work: list[Work]) -> None:
    processor = Told(100)
    work.append(each := Work(Places(1, Bound(3), processor), 5))
    assert sorted(each.begun(3)) == [0, 1, 2]
    assert processor.left == 98, "asked for each beyond the least, and not beyond the most"
    each.let(0)
    assert each.begun(4)[3] == 3


def test_each_place_beyond_the_least_is_asked_for(work: list[Work]) -> None:
    work.append(each := Work(Places(1, Bound(5), Told(1)), 4))
    assert sorted(each.begun(2)) == [0, 1]
    each.let(0)
    each.let(1)
    assert each.begun(3)[2] == 2


def test_several_places_share_a_bound_and_one_of_each_goes_on(work: list[Work]) -> None:
    bound = Bound(3)
    work.append(some := Work(Places(2, bound, Told(100)), 4))
    assert len(some.begun(3)) == 3
    work.append(others := Work(Places(2, bound, Told(100)), 2))
    assert others.begun(1) == [0]
    some.let(0, 1, 2)
    assert others.begun(2) == [0, 1]


def test_a_place_is_given_back_by_work_that_fails() -> None:
    taken = Places(1, Bound(1), Told(0))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), taken.place():
            raise ZeroDivisionError
    with taken.place():
        pass


def test_who_waits_for_long_gives_its_place_away_and_goes_on() -> None:
    taken = Places(1, Bound(2), Told(0))
    first, second = threading.Event(), threading.Event()

    def waits(begun: threading.Event) -> None:
        with taken.place():
            begun.set()
            assert not History().wait_until(lambda _: False, 1.5 * places.LONG)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(waits, first)
        assert first.wait(10)
        waiting = pool.submit(waits, second)
        assert second.wait(10 * places.LONG), "it has a place while the first still waits"
        waiting.result()
        for _ in range(2):  # nothing was given back twice
            with taken.place():
                assert (taken._taken, taken._under_way) == (1, 1)
    assert (taken._taken, taken._under_way) == (0, 0)


def test_those_that_gave_their_places_away_count_among_the_most(work: list[Work]) -> None:
    taken = Places(1, Bound(2), Told(0))
    work.append(each := Work(taken, 4))
    assert each.begun(1) == [0]
    taken.free()  # as the first would, and the second
    assert each.begun(2) == [0, 1]
    taken.free()
    each.let(0)
    assert each.begun(3)[2] == 2
    taken._taken += 2


def test_few_at_work_and_more_that_wait(work: list[Work]) -> None:
    """So a class is no louder than one grading, and long waits keep nobody from beginning."""
    taken = Places(1, Bound(4, at_work=2), Told(100))
    work.append(each := Work(taken, 6))
    assert sorted(each.begun(2)) == [0, 1]
    taken.free()  # as one that waits
    assert sorted(each.begun(3)) == [0, 1, 2]
    taken.free()
    taken.free()
    assert sorted(each.begun(4)) == [0, 1, 2, 3]
    taken.free()  # now all wait, which are the most that there may be
    assert taken._bound.is_reached
    taken._taken += 4
    taken._bound.given -= 4
    each.let(0)
    assert taken._bound.is_reached
    each.let(1, 2)
    assert sorted(each.begun(5)) == [0, 1, 2, 3, 4]


def test_waits_that_are_over_soon_keep_their_place() -> None:
    taken = Places(1, Bound(2), Told(0))
    with taken.place():
        places.waited(places.LONG)
        assert taken._taken == 1
        places.waited(places.LONG * 1.01)
        assert taken._taken == 0
        places.waited(places.LONG * 9)
        assert taken._taken == 0
    assert taken._taken == 0
    places.waited(99.0)  # a thread without a place


def test_the_processor_is_believed_once_per_window(monkeypatch: pytest.MonkeyPatch) -> None:
    now, idle = [100.0], [0.0]
    monkeypatch.setattr(places.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(places.psutil, "cpu_times", lambda: Times(user=5.0, idle=idle[0]))
    processor = Processor()

    def after(seconds: float, cores_idle: float) -> bool:
        now[0] += seconds
        idle[0] += seconds * cores_idle
        return processor.spare()

    window = places.WINDOW * 1.01
    assert not after(0, 0), "nothing is known at first"
    assert not after(window / 2, 2.0), "it has not been watched for long enough"
    assert after(window / 2, 2.0)
    assert not after(window / 2, 2.0), "what was begun has not shown what it takes"
    assert after(window / 2, 2.0)
    assert not after(window, places.SPARE * 0.9)
    assert after(window, places.SPARE * 1.1)
    assert not after(10 * window, 0.0)


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [("1", 2, 2), ("0.67", 2, 1), ("0.67", 6, 4), ("0.01", 2, 1), ("3", 2, 6)],
)
def test_a_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, share: str, count: int, expected: int
) -> None:
    monkeypatch.setenv("WORKER_LABS_CORES", share)
    assert settings.per_core(count) == expected


@pytest.mark.parametrize(("share", "expected"), [("4", 5), ("1.33", 2), ("0.01", 1), ("", 5)])
def test_a_share_of_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, share: str, expected: int
) -> None:
    monkeypatch.setattr(settings, "cores", lambda: 4)
    monkeypatch.setenv("WORKER_LABS_CORES", share)
    assert settings.of_machine(5) == expected


def test_a_share_that_grows_is_noticed(monkeypatch: pytest.MonkeyPatch, work: list[Work]) -> None:
    """When the others of a class have ended, more may be under way, up to all cores' number."""
    monkeypatch.setattr(settings, "cores", lambda: 2)
    monkeypatch.setenv(settings.SHARE, "0.5")
    bound = Bound(lambda: settings.per_core(4), settings.at_most(4))
    assert (bound.most, bound.ceiling) == (2, 8)
    work.append(each := Work(Places(lambda: settings.per_core(2), bound, Told(0)), 4))
    assert each.begun(1) == [0]
    monkeypatch.setenv(settings.SHARE, "1.5")
    assert sorted(each.begun(3)) == [0, 1, 2]
    monkeypatch.setenv(settings.SHARE, "99")
    assert bound.most == 8


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("150000 100000", 2), ("100000 100000", 1), ("20000 100000", 1), ("max 100000", 8),
     ("9900000 100000", 8), ("", 8), ("1 0", 8), ("\xff", 8)],
)
def test_the_cores_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int
) -> None:
    monkeypatch.setattr(settings, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_bytes(f"{quota}\n".encode("latin-1"))
    assert settings.cores() == expected


def test_the_cores_where_a_process_is_bound_to_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5}, raising=False)
    assert settings.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert settings.cores() == 2


@pytest.mark.parametrize(("most", "free"), [("3000", 2000), ("max", 5000), ("9000", 5000),
                                            ("500", 0), (None, 5000)])
def test_the_memory_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: str | None, free: int
) -> None:
    monkeypatch.setattr(settings, "CGROUP", tmp_path)
    monkeypatch.setattr(settings.psutil, "virtual_memory", lambda: SimpleNamespace(available=5000))
    if most:
        (tmp_path / "memory.max").write_text(most + "\n")
        (tmp_path / "memory.current").write_text("1400\n")
        (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 400\nactive_file 1\n")
    assert settings.memory() == free


@pytest.mark.parametrize(
    ("cores", "gigabytes", "lanes"), [(2, 16, 3), (24, 4, 9), (4, 0.1, 1), (1, 8, 2)]
)
def test_submissions_side_by_side(
    monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: float, lanes: int
) -> None:
    monkeypatch.setattr(settings, "cores", lambda: cores)
    monkeypatch.setattr(settings, "memory", lambda: int(gigabytes * (1 << 30)))
    assert runner.lanes() == lanes


@pytest.mark.parametrize("share", ["", "many", "0", "nan", "inf"])
def test_all_cores_where_no_share_is_said(monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    monkeypatch.setenv("WORKER_LABS_CORES", share)
    assert settings.per_core(2) == 2 * settings.cores()
