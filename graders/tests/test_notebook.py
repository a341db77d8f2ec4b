"""What the notebooks import, without a kernel: programs, moments, exercises, and their troubles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator

import psutil
import pytest

from graders.harness.servers.base import poll
from graders.notebook import (
    Bench,
    PostTask,
    Problem,
    Source,
    after,
    away,
    check_my_claim,
    check_my_store,
    check_my_take,
    open_lab,
)
from graders.notebook.programs import register, register_modules
from graders.notebook.tables import Table

BOUND = 60.0  # seconds

FIND = "SELECT id FROM tasks WHERE status = 'pending' ORDER BY created_at LIMIT 1"
MARK = "UPDATE tasks SET status = 'processing', assigned_worker = %(worker)s WHERE id = %(id)s"

WORKER = """
import json, os, time, urllib.request
import psycopg

db = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
while True:
    with db.transaction():
        row = db.execute("SELECT id FROM tasks WHERE status = 'pending' "
                         "ORDER BY created_at LIMIT 1 {lock}").fetchone()
        if row:
            db.execute("UPDATE tasks SET status = 'processing' WHERE id = %s", row)
    if row is None:
        time.sleep(float(os.environ["WORKER_POLL_INTERVAL"]))
        continue
    urllib.request.urlopen(os.environ["WORK_URL"], json.dumps({{"id": str(row[0])}}).encode())
    db.execute("UPDATE tasks SET status = 'completed' WHERE id = %s", row)
"""
CARELESS = Source.of("worker", "careless", WORKER.format(lock=""))
SKIPPING = Source.of("worker", "skipping", WORKER.format(lock="FOR UPDATE SKIP LOCKED"))


@pytest.fixture(scope="module")
def lab() -> Iterator[Bench]:
    lab = open_lab("03")
    yield lab
    lab.close()


def test_a_mistake_in_a_cells_code_is_told_with_its_line():
    with pytest.raises(Problem, match=r"careless is no Python yet: .*, line 2 of the cell's code"):
        Source.of("worker", "careless", "import os\nwhile True\n    pass\n")


def test_cell_magics_make_programs():
    made = {}
    shell = types.SimpleNamespace(
        user_ns={}, register_magic_function=lambda f, kind, name: made.update({name: (f, kind)})
    )
    register(shell)
    assert {name: kind for name, (_, kind) in made.items()} == dict.fromkeys(
        ("worker", "api", "migrate"), "cell"
    )
    made["api"][0](" mine ", "print(1)\n")
    assert shell.user_ns["mine"] == Source.of("api", "mine", "print(1)\n")
    with pytest.raises(Problem, match="takes the name of a Python variable"):
        made["api"][0]("my api", "print(1)\n")


def test_programs_import_modules_that_cells_make():
    made = {}
    shell = types.SimpleNamespace(
        user_ns={}, register_magic_function=lambda f, kind, name: made.update({name: f})
    )
    register(shell)
    register_modules(shell)
    with pytest.raises(Problem, match="There is no module web yet: run its cell first"):
        made["api"]("mine web", "import web\n")
    made["module"]("web", "PORT = 1\n")
    made["api"]("mine web", "import web\n")
    assert dict(shell.user_ns["mine"].files)["web.py"] == "PORT = 1\n"
    with pytest.raises(Problem, match="web is no Python yet"):
        made["module"]("web", "PORT = \n")


def test_a_program_is_changed_in_a_copy():
    other = CARELESS.changed("other", "LIMIT 1", "LIMIT 2")
    assert (other.name, other.key == CARELESS.key) == ("other", False)
    assert "LIMIT 2" in dict(other.files)["worker.py"]
    with pytest.raises(Problem, match="There is no “LIMIT 3” in careless"):
        CARELESS.changed("other", "LIMIT 3", "LIMIT 2")


def test_a_problem_shows_no_frames_of_ours():
    assert Problem("There is no lab04.")._render_traceback_() == ["There is no lab04."]
    with pytest.raises(Problem, match="lab44"):
        open_lab("44")


def test_two_careless_workers_execute_one_task_and_two_that_skip_do_not(lab):
    race = lab.race(CARELESS, "SELECT")
    assert repr(race) == "worker-1 executed T1\nworker-2 executed T1"
    drawn = lab.timeline(race.room, "a race")
    assert "<svg" in drawn._repr_html_()
    assert "executes T1, execution number 2" in repr(drawn)
    assert len(lab.race(SKIPPING, "SELECT").executions) == 1


def test_a_step_that_never_comes_is_told(lab):
    # Two careless ones may both claim the task, and have then come as far as they can.
    with pytest.raises(Problem, match="no step that begins with “DELETE”"):
        lab.race(SKIPPING, "DELETE")


def test_a_worker_is_paused_at_each_of_its_steps(lab):
    table = lab.pause_at_each_step(SKIPPING)
    seen = [(state, free) for _, _, state, free in table.rows]
    # Connected, BEGIN; SELECT and UPDATE in the transaction; COMMIT, call, its answer; the end.
    assert seen[:2] == [("pending", "yes")] * 2
    assert seen[2:4] == [("pending", "no")] * 2
    assert seen[4:7] == [("processing", "no")] * 3
    assert {state for state, _ in seen[7:]} == {"completed"}
    assert repr(table) == repr(lab.pause_at_each_step(SKIPPING))


def test_every_moment_is_told_in_a_table(lab):
    moments = lab.explore(CARELESS, "interleaving")
    assert moments.broken
    assert f"{len(moments.points)} interleavings; {len(moments.broken)} broke" in repr(moments)
    assert "worker-2" in repr(lab.timeline(moments.at(moments.broken[0])))
    with pytest.raises(Problem, match="There is no step 99z"):
        moments.at("99z")
    held = next(p.label for p in moments.points if p.outcome is None)
    with pytest.raises(Problem, match=f"At step {held} nothing broke"):
        moments.at(held)
    with pytest.raises(Problem, match="no exploration “crush”"):
        lab.explore(CARELESS, "crush")
    with pytest.raises(Problem, match="no scenario “four”"):
        lab.explore(CARELESS, "crash", scenarios=["four"])


def test_a_readers_claim_is_tried_at_every_interleaving(lab):
    careless = check_my_claim(FIND, MARK)
    assert not careless.good
    assert careless.says.startswith("Your claim broke at ")
    assert "<svg" in careless._repr_html_()
    right = check_my_claim(FIND + " FOR UPDATE SKIP LOCKED", MARK)
    assert right.good
    assert right.says.startswith(f"Your claim held at all {len(right.moments.points)} ")
    with pytest.raises(Problem, match="syntax error at or near"):
        check_my_claim("SELEC id FROM tasks")
    with pytest.raises(Problem, match="one or more SQL statements"):
        check_my_claim()


def test_times_and_rates_are_measured(lab):
    waits = lab.waiting_times(SKIPPING, [0.05, 0.1], tasks=3)
    assert {interval: len(each) for interval, each in waits.items()} == {0.05: 3, 0.1: 3}
    assert all(wait > 0 for each in waits.values() for wait in each)
    rates = lab.throughput(SKIPPING, [1, 2], tasks=6, work=0.01)
    assert set(rates) == {1, 2}
    assert all(rate > 0 for rate in rates.values())


def test_the_stop_button_ends_what_runs_and_the_cell_can_be_run_again(lab):
    session = lab.session(CARELESS)
    before = session.starts["worker"]

    def press() -> None:
        poll(lambda: session.starts["worker"] > before, BOUND)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(Problem, match="Stopped; nothing of it runs any more"):
        lab.explore(CARELESS, "crash")
    assert session.stopping
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(session.run_dir) in
                " ".join(p.info["cmdline"] or ())]
    assert len(lab.race(CARELESS, "SELECT").executions) == 2


def test_a_server_that_has_gone_is_started_again(lab, capsys):
    before = lab._services.postgres
    lab._services.stop()
    assert len(lab.race(SKIPPING, "SELECT").executions) == 1
    assert "A server had gone; starting it again." in capsys.readouterr().out
    assert lab._services.postgres is not before


def test_the_store_goes_away_and_comes_back(lab):
    with lab.room(SKIPPING) as room:
        worker = room.start_worker()
        with away(worker):
            worker.process.wait_exit(BOUND)
        assert not worker.alive
        room.world.answer_all()
        task = room.add_task()
        room.start_worker(hold=after("COMMIT"))
        assert room.row(task)["status"] in ("pending", "processing")


def test_a_table_is_text_and_html():
    table = Table(("a", "b"), (("1", "<script>"), ("22", "x\x1b[31m")), "two rows")
    assert repr(table).splitlines()[0] == "two rows"
    assert "<script>" not in table._repr_html_()
    assert "\x1b" not in repr(table) + table._repr_html_()


# These open other labs, and with that close the one above.


def test_a_readers_take_is_tried_at_every_interleaving():
    lab = open_lab("01")
    try:
        assert check_my_take(take).good
        with pytest.raises(Problem, match="Call it take"):
            check_my_take(look)
        with pytest.raises(Problem, match="check_my_claim needs lab 03"):
            check_my_claim(FIND, MARK)
    finally:
        lab.close()


def take(r):
    return r.rpop("work_queue")


def look(r):
    return r.lindex("work_queue", -1)


def test_a_readers_store_is_killed_at_each_step():
    lab = open_lab("02")
    try:
        assert check_my_store(store).good
        with lab.room(Source.of("api", "api", "raise SystemExit(3)")) as room, \
                pytest.raises(AssertionError, match="exit status 3"):
            room.start_api()
        assert PostTask().words == "POST /tasks"
    finally:
        lab.close()


def store(db, task):
    return db.execute(
        "INSERT INTO tasks (title, priority) VALUES (%(title)s, %(priority)s) RETURNING *", task
    ).fetchone()


def test_a_killed_kernel_leaves_nothing():
    code = (
        "from graders.notebook import open_lab; import time; lab = open_lab('03')\n"
        "print(lab._services.postgres.admin_url, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline().startswith("postgresql://")
        family = psutil.Process(child.pid).children(recursive=True)
        assert family
        child.kill()
        _, left = psutil.wait_procs(family, timeout=BOUND)
    assert not left
