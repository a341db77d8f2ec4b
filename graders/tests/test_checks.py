"""Checks as declared: points, needs, docstrings; and the parts of lab 03 that judge text."""

from __future__ import annotations

import os

import pytest

from graders.harness import hints, settings
from graders.harness.answers import unanswered
from graders.harness.catalog import checks_of
from graders.harness.check import CODES, Finding, check, with_needs
from graders.lab03 import dataflow, logs

LABS = settings.labs()


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_points_of_a_lab_add_up_to_100(lab):
    assert sum(check.points for check in checks_of(lab).values()) == 100


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_every_check_says_what_and_why(lab):
    for each in checks_of(lab).values():
        assert each.title.endswith("."), each.name
        assert each.why, each.name
        assert each.exercise in lab.exercises, each.name


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_needs_are_declared_before_they_are_needed(lab):
    seen: set[str] = set()
    for each in checks_of(lab).values():
        assert set(each.needs) <= seen, each.name
        seen.add(each.name)
    assert any(not each.needs for each in checks_of(lab).values()), "a root"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_every_check_has_three_hints(lab):
    told = hints.read(lab)
    assert set(told) == set(checks_of(lab))
    assert all(len(levels) == 3 for levels in told.values())


def test_with_needs_takes_along_what_is_needed_in_order():
    checks = checks_of(settings.lab("3"))
    assert with_needs(checks, ["logs_tell_the_story"]) == [
        "completes_a_pending_task", "finishes_the_task_on_sigterm", "logs_tell_the_story",
    ]  # fmt: skip


def test_a_check_without_a_docstring_is_refused():
    with pytest.raises(TypeError, match="rubric"):

        @check("3a", points=1)
        def test_silent(lab): ...


def test_a_finding_has_a_known_code():
    with pytest.raises(AssertionError, match="unknown finding code"):
        Finding("no-such-code", "It works.", "It did not.")
    assert all(text[0].isupper() and not text.endswith(".") for text in CODES.values())


# Log lines

TASK_ID = "3f0c1d52-1b1e-4a7e-9a54-0c5a6f2f8b11"


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ("polling every 0.7 s", True),
        ("poll_interval=0.70", True),
        ("interval 700 ms", True),
        ("interval 0:00:00.700000", True),
        ("alle 0,7 Sekunden", True),
        ("every .7 s", True),
        ('{"ts": "2026-11-22T10:00:00.700Z", "msg": "started"}', False),
        ("polling every 10.7 s", False),
        ("polling every 2 s", False),
        ("version 0.7.1", False),
    ],
)
def test_a_number_by_itself(line, fits):
    assert logs.names_the_number("0.7", "700")(line) is fits


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        (f"2026-11-22 10:00:00,123 INFO Task {TASK_ID} completed after 0.01 s", True),
        (f"completed {TASK_ID} in 12ms", True),
        (f"2026-11-22 10:00:00,123 worker-1 Task {TASK_ID} completed", False),
        ("completed after 3 s", False),
    ],
)
def test_an_id_and_a_number_that_is_no_time_of_day(line, fits):
    assert logs.names_and_a_number(TASK_ID, ignore=("worker-1",))(line) is fits


# The diagram

DIAGRAM = """
# The flow

```mermaid
sequenceDiagram
    participant C as Client
    actor W as The worker
    participant D as PostgreSQL (tasks)
    participant O as Outside world
    C->>D: INSERT
    W->>+D: BEGIN; SELECT … FOR UPDATE SKIP LOCKED
    D-->>-W: the row
    Note over W,D: committed
    W->>O: POST /work
    O-->>W: 200
    loop every poll
        W-)D: UPDATE completed
    end
    D-->>W: UPDATE 1
```
"""
FLOW = [
    ("worker", "PostgreSQL"), ("PostgreSQL", "worker"), ("worker", "world"),
    ("world", "worker"), ("worker", "PostgreSQL"), ("PostgreSQL", "worker"),
]  # fmt: skip


def test_a_diagram_is_read_with_its_aliases():
    drawn = dataflow.best_reading(DIAGRAM, FLOW)
    assert drawn == [("client", "PostgreSQL"), *FLOW]
    assert dataflow.first_missing(FLOW, drawn) is None


def test_the_first_message_that_is_missing_is_named():
    drawn = dataflow.best_reading(DIAGRAM.replace("    O-->>W: 200\n", ""), FLOW)
    assert dataflow.first_missing(FLOW, drawn) == 3


def test_of_several_diagrams_the_best_counts():
    other = "```mermaid\nstateDiagram-v2\n  a --> b\n```\n"
    part = DIAGRAM.replace("    W->>O: POST /work\n", "")
    whole = dataflow.best_reading(DIAGRAM, FLOW)
    for text in (other + DIAGRAM, part + DIAGRAM, DIAGRAM + part):
        assert dataflow.best_reading(text, FLOW) == whole


@pytest.mark.parametrize("fence", ["```", "~~~", "````", "  ```"])
def test_a_diagram_stands_in_any_fence(fence):
    text = DIAGRAM.replace("```", fence).replace("mermaid", "mermaid title=flow")
    assert dataflow.best_reading(text, FLOW) == dataflow.best_reading(DIAGRAM, FLOW)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Worker", ["worker"]),
        ("tasks table for workers", ["PostgreSQL", "worker"]),
        ("PostgreSQL (worker_db)", ["PostgreSQL", "worker"]),
        ("psql", ["PostgreSQL"]),
        ("the queue", ["PostgreSQL"]),
        ("FastAPI", ["api"]),
        ("API server", ["api", "PostgreSQL"]),
        ("External API", ["api", "world"]),
        ("Worker service", ["world", "worker"]),
        ("HTTP endpoint", ["world"]),
        ("Welt", ["world"]),
        ("curl", ["client"]),
        ("Moon", []),
    ],
)
def test_participants_are_freely_worded(name, known):
    assert dataflow.parties(name) == known


@pytest.mark.parametrize(
    ("worker", "world", "missing"),
    [
        ("Worker service", "External API", None),
        ("Worker (client of PostgreSQL)", "Mail service", None),
        ("External service called by the worker", "Worker", 2),  # the wrong way round
        ("Moon", "World", 0),
    ],
)
def test_a_name_that_may_be_several_is_the_one_that_was_seen(worker, world, missing):
    text = DIAGRAM.replace("The worker", worker).replace("Outside world", world)
    drawn = dataflow.best_reading(text, FLOW)
    assert dataflow.first_missing(FLOW, drawn) == missing


def test_names_that_may_all_be_anything_are_read_to_an_end():
    many = "\n".join(f"API server {n}->>database service {n}: x" for n in range(40))
    text = f"```mermaid\nsequenceDiagram\n{many}\n```"
    assert len(dataflow.best_reading(text, FLOW)) == 40


@pytest.mark.parametrize("text", ["", "no diagram", "```mermaid\nflowchart LR\n a-->b\n```"])
def test_no_sequence_diagram(text):
    assert dataflow.best_reading(text, FLOW) == []


# Answers


def test_questions_without_an_answer_are_listed(tmp_path):
    path = tmp_path / "ANSWERS.md"
    path.write_text(
        "# Answers\n\n## Exercise 3a\n\n### 1. First?\n\n_Your answer:_\n\n"
        "### 2. Second?\n\n_Your answer:_\n\nBecause.\n\n### 3. Third?\n\n> quoted\n"
    )
    assert unanswered(path) == ["1. First?", "3. Third?"]


def test_a_missing_answers_file_is_one_open_question(tmp_path):
    assert len(unanswered(tmp_path / "ANSWERS.md")) == 1
    os.mkfifo(tmp_path / "pipe.md")  # must not be waited for
    assert unanswered(tmp_path / "pipe.md") == unanswered(tmp_path / "ANSWERS.md")
    (tmp_path / "zeros.md").symlink_to("/dev/zero")
    assert unanswered(tmp_path / "zeros.md") == unanswered(tmp_path / "ANSWERS.md")


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_the_starter_asks_what_the_solution_answers(lab):
    asked = unanswered(lab.starter / "ANSWERS.md")
    solved = settings.ROOT / "solutions" / lab.name / "ANSWERS.md"
    assert asked
    assert unanswered(solved) == []
    assert all(question in solved.read_text(encoding="utf-8") for question in asked)
