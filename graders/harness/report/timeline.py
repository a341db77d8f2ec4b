"""The timeline of a check: from the history's events to rows, and from rows to text.

`rows` keeps what tells the story and folds what does not: a handshake is one row, a statement and
its answer are one row unless something else happened between them, BEGIN joins the statement it
opens, repeated polls are shown once. `draw` sets the rows out with one lane for each worker, each
server and the world.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graders.harness import history as h
from graders.harness import results
from graders.harness.history import Event
from graders.harness.report.sql import shorten, with_labels
from graders.harness.report.text import Line, clean, cut, pad, width_of, wrap
from graders.harness.results import TimelineRow

BROKE = "broke"

MOST_ROWS = 1000  # of a timeline that is kept; a flood of log lines is no use to anybody
SHOWN_ROWS = 26  # of a timeline that is drawn, unless more are asked for
MOST_LINES = 4  # of one row's text
LONGEST_PERIOD = 6  # rows of a repeated poll

SERVERS = {"postgres": "PostgreSQL", "redis": "Redis"}
WORLD = "world"
CLIENT = "client"
GRADER = "grader"
LOG = "log: "
PREPARE = "prepare"  # a statement is only parsed: no news, unless something went wrong
BEGIN = "begin"
MIXED = "\0"  # instead of a status: they differ
MOST_DETAIL = 2000  # characters of a whole statement

KINDS = {  # of a row, for those of the event that it tells
    h.TASK_ADDED: results.ADDED,
    h.STARTED: results.START,
    h.SIGNAL: results.SIGNAL,
    h.EXIT: results.EXIT,
    h.LOG: results.LOG,
    h.STEP_ARRIVED: results.MESSAGE,
    h.STEP_DELIVERED: results.ANSWER,
    BEGIN: results.MESSAGE,
    PREPARE: results.MESSAGE,
    h.CONNECTED: results.MESSAGE,
    h.DISCONNECTED: results.CUT,
    h.ROW_CHANGED: results.STATUS,
    h.CALL_ARRIVED: results.WORK,
    h.CALL_ANSWERED: results.WORK_DONE,
    h.CALL_LOST: results.WORK_LOST,
    h.REQUEST_SENT: results.MESSAGE,
    h.REQUEST_ANSWERED: results.ANSWER,
}

_TAG = re.compile(r"(?:SELECT|UPDATE|DELETE|MERGE|FETCH|MOVE|COPY|INSERT \d+) (\d+)$")


@dataclass
class _Draft:
    """A row in the making."""

    n: int  # of the first event it shows
    at: float
    lane: str
    to: str | None
    text: str
    solid: bool = True  # other rows do not fold over it
    step: Any = None
    after: str = ""  # what came of it
    kind: str = ""
    broke: bool = False
    labels: list[str] = field(default_factory=list)  # of the tasks that it is about
    was: str = ""
    status: str = ""
    worker: str = ""

    @property
    def whole(self) -> str:
        return self.text + self.after

    @property
    def detail(self) -> str:
        """The whole statements of which the text tells, with what they were given."""
        said = []
        for each in getattr(self.step, "statements", None) or ():
            said.append(textwrap.dedent(each.sql).strip())
            if each.params:
                said.append("with " + ", ".join(map(repr, each.params)))
        return cut(clean("\n".join(said), newlines=True), MOST_DETAIL)

    def row(self) -> TimelineRow:
        return TimelineRow(
            round(self.at, 6), self.lane, self.to, clean(self.whole), BROKE if self.broke else "",
            KINDS.get(self.kind, self.kind if self.kind in results.ROW_KINDS else results.NOTE),
            tuple(map(clean, self.labels)), clean(self.was),
            clean("" if self.status == MIXED else self.status), clean(self.worker), self.detail,
        )  # fmt: skip

    @property
    def key(self) -> tuple[str, str | None, str]:
        # log lines of one poll differ in their times
        text = re.sub(r"\d+", "#", self.whole) if self.kind == h.LOG else self.whole
        return (self.lane, self.to, text)


# --- from events to rows --------------------------------------------------------------------------


def rows(
    events: Iterable[Event], broke: Event | int | None = None, most: int = MOST_ROWS
) -> list[TimelineRow]:
    """The rows of these events, oldest first.

    broke: the event (or its number) at which the finding was made; its row, or the last one before
        it if it has none of its own, is marked "broke". Without it, a NOTE with broke=True says
        where: at that note, or at the event that it names as `event`.
    most: how many rows are kept; beyond it the middle is left out and a row says so.
    """
    seen = list(events)
    drafts = _Teller(seen).tell()
    if broke is None:
        note = next((e for e in seen if e.kind == h.NOTE and e.data.get("broke")), None)
        broke = (note.data.get("event") or note) if note else None
    if broke is not None and drafts:
        _mark(drafts, broke.n if isinstance(broke, Event) else broke, seen)
    drafts = _fold_logs(drafts)
    drafts = _fold_repeats(drafts)
    if len(drafts) > most:
        drafts = _leave_out_middle(drafts, most)
    return [draft.row() for draft in drafts]


def _mark(drafts: list[_Draft], broke: int, events: Sequence[Event]) -> None:
    event = next((e for e in events if e.n == broke), None)
    step = event.data.get("step") if event else None
    if step is not None:
        for draft in reversed(drafts):
            if draft.step is step and draft.n <= broke:
                draft.broke = True
                return
    before = [d for d in drafts if d.n <= broke]
    (before[-1] if before else drafts[0]).broke = True


class _Teller:
    """Goes through the events once and tells each in words."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.drafts: list[_Draft] = []
        self.labels: dict[str, str] = {}
        self.server_of: dict[tuple[str, Any], str] = {}
        self.answered: set[int] = set()  # ids of steps
        self.delivered: set[int] = set()
        self.connecting: set[tuple[str, Any]] = set()
        self.closed: set[tuple[str, Any]] = set()
        self.gone: set[str] = set()  # processes that ended or were killed
        self.times_called: dict[str, int] = {}
        servers = set()
        for event in events:
            if event.data.get("server") in SERVERS:
                servers.add(event.data["server"])
                self.server_of[event.who, event.data.get("connection")] = event.data["server"]
            if event.kind == h.TASK_ADDED and event.data.get("label"):
                task = event.data.get("id") or event.data.get("task")
                self.labels[str(task).lower()] = str(event.data["label"])
            if event.who in SERVERS:
                servers.add(event.who)
            step = event.data.get("step")
            if step is None:
                continue
            where = (event.who, getattr(step, "connection", None))
            if step.kind == "connect":
                self.connecting.add(where)
            server = _server_of(step)
            if server in SERVERS:
                servers.add(server)
                self.server_of.setdefault(where, server)
        # a connection on which nothing was said goes to the one server there is
        self.only_server = "redis" if servers == {"redis"} else "postgres"

    def tell(self) -> list[_Draft]:
        tellers: dict[str, Callable[[Event], None]] = {
            h.TASK_ADDED: self.task_added,
            h.STARTED: self.started,
            h.SIGNAL: self.signal,
            h.EXIT: self.exit,
            h.LOG: self.log,
            h.STEP_ARRIVED: self.step_arrived,
            h.STEP_ANSWERED: self.step_answered,
            h.STEP_DELIVERED: self.step_delivered,
            h.CONNECTED: self.connected,
            h.DISCONNECTED: self.disconnected,
            h.ROW_CHANGED: self.row_changed,
            h.CALL_ARRIVED: self.call_arrived,
            h.CALL_ANSWERED: self.call_answered,
            h.CALL_LOST: self.call_lost,
            h.REQUEST_SENT: self.request,
            h.REQUEST_ANSWERED: self.request,
            h.LOOKED: lambda _: None,
        }
        for event in self.events:
            tellers.get(event.kind, self.other)(event)
        for draft in self.drafts:
            self.close_open(draft)
        return [d for d in self.drafts if d.kind != PREPARE or d.after]

    def add(self, event: Event, text: str, *, lane: str | None = None, to: str | None = None,
            solid: bool = True, step: Any = None) -> _Draft:
        draft = _Draft(event.n, event.at, lane or event.who, to, text, solid, step,
                       kind=event.kind)
        self.drafts.append(draft)
        return draft

    def last_solid(self) -> _Draft | None:
        return next((d for d in reversed(self.drafts) if d.solid), None)

    def label(self, task: Any) -> str:
        name = str(task)
        return self.labels.get(name.lower(), name if len(name) <= 12 else name[:8] + "…")

    def words(self, text: str) -> str:
        return with_labels(text, self.labels)

    # -- processes and tasks

    def task_added(self, event: Event) -> None:
        task = event.data.get("id") or event.data.get("task", "a task")
        label = str(event.data.get("label") or self.label(task))
        last = self.drafts[-1] if self.drafts else None
        if last and last.kind == h.TASK_ADDED and last.lane == event.who:
            last.labels.append(label)
            first, end = last.labels[0], last.labels[-1]
            what = "jobs" if end.startswith("J") else "tasks"
            last.text = f"adds {first} to {end} ({len(last.labels)} {what})"
            return
        row = event.data.get("row")
        title = row.get("title") if isinstance(row, Mapping) else None
        if title:
            draft = self.add(event, f"adds {label} “{cut(str(title), 40)}”")
        else:
            draft = self.add(event, event.text or f"adds {label}")
        draft.labels.append(label)

    def started(self, event: Event) -> None:
        pid, command = event.data.get("pid"), event.data.get("command")
        if isinstance(command, (list, tuple)):
            command = " ".join(map(str, command))
        self.gone.discard(event.who)
        self.add(event, f"starts: {cut(str(command), 60)} (pid {pid})" if command and pid
                 else event.text)

    def signal(self, event: Event) -> None:
        name = str(event.data.get("signal") or event.text)
        draft = self.add(event, f"{name} is sent to {event.who}")
        if name == "SIGKILL":
            self.gone.add(event.who)
            draft.kind = results.KILL

    def exit(self, event: Event) -> None:
        code, name = event.data.get("code"), event.data.get("signal")
        self.gone.add(event.who)
        if name:
            self.add(event, f"ended by {name}")
        else:
            self.add(event, f"exits with status {code}" if code is not None else event.text)

    def log(self, event: Event) -> None:
        line = str(event.data.get("line", event.text))
        self.add(event, LOG + self.words(line), solid=False)

    def other(self, event: Event) -> None:
        if event.kind == h.NOTE and event.data.get("broke"):
            if event.data.get("event") is None:
                code = event.data.get("code")
                draft = self.add(event, f"found: {code}" if code else event.text, lane=GRADER)
                draft.kind = results.FOUND
            return
        self.add(event, self.words(event.text))

    # -- steps

    def server(self, who: str, connection: Any) -> str:
        return self.server_of.get((who, connection), self.only_server)

    def step_arrived(self, event: Event) -> None:
        step = event.data.get("step")
        if step is None:
            self.other(event)
            return
        if step.kind in ("check", "call", "call-answer"):
            return  # a pool's own question; and the world tells of its calls itself
        where = (event.who, step.connection)
        server = self.server(*where)
        if step.kind == "close":
            self.closed.add(where)
            self.add(event, "closes its connection", to=server, step=step).kind = results.CLOSE
            return
        if step.kind == "reply":
            self.add(event, f"reply: {self.words(step.words)}", lane=server, to=event.who,
                     step=step).kind = results.ANSWER
            return
        said = "connects" if step.kind == "connect" else self.said(step)
        if step.kind == "prepare":
            self.add(event, f"prepares {said}", to=server, solid=False, step=step).kind = PREPARE
            return
        begin = self.last_solid()
        if (begin and begin.step is not None and begin.kind == BEGIN and begin.step is not step
                and begin.lane == event.who and begin.step.connection == step.connection
                and id(begin.step) in self.delivered):
            begin.text += f"; {said}"
            begin.step, begin.kind = step, event.kind
            return
        draft = self.add(event, said, to=server, step=step)
        if re.match(r"(begin|start transaction)\b", step.words, re.I) and ";" not in step.words:
            draft.kind = BEGIN

    def said(self, step: Any) -> str:
        statements = getattr(step, "statements", None)
        if step.kind in ("query", "prepare") and statements:
            return "; ".join(shorten(s.sql, s.params or (), self.labels) for s in statements)
        return self.words(step.words)

    def step_answered(self, event: Event) -> None:
        self.answered.add(id(event.data.get("step")))

    def step_delivered(self, event: Event) -> None:
        step = event.data.get("step")
        self.delivered.add(id(step))
        self.answered.add(id(step))
        if step is not None and step.kind == "prepare":
            for draft in self.drafts:
                if draft.step is step and step.error:
                    draft.after = _after(step)
            return
        if step is None or step.kind in ("check", "call", "call-answer", "close", "reply"):
            return
        last = self.last_solid()
        if last and last.step is step:
            last.after = _after(step)
            return
        if not any(d.step is step for d in self.drafts):
            return  # it arrived before these events began
        came = self.words(_outcome(step)) or "done"
        verb = "connecting" if step.kind == "connect" else step.words.split(" ", 1)[0].upper()
        self.add(event, f"answer to {verb}: {came}", lane=self.server(event.who, step.connection),
                 to=event.who, step=step)

    def close_open(self, draft: _Draft) -> None:
        step = draft.step
        if step is None or step.kind in ("close", "reply") or id(step) in self.delivered:
            return
        if draft.after:
            return
        fate = getattr(step, "fate", None)
        if fate and id(step) not in self.answered:
            draft.after = f" ({fate} by the check)"
        elif id(step) in self.answered:
            draft.after = f"{_after(step)} (but {draft.lane} never got the answer)"
        else:
            draft.after = " (no answer yet)" if draft.lane not in self.gone else " (no answer)"
        draft.kind = results.UNANSWERED

    # -- connections

    def connected(self, event: Event) -> None:
        where = (event.who, event.data.get("connection"))
        if where not in self.connecting:
            self.add(event, "opens a connection", to=self.server(*where))

    def disconnected(self, event: Event) -> None:
        where = (event.who, event.data.get("connection"))
        by = event.data.get("by")
        server = self.server(*where)
        name = SERVERS.get(server, server)
        if by == "client":
            # a killed process takes its connections with it: that is no news
            if where not in self.closed and event.who not in self.gone:
                # Redis has no message for it: its clients just close, and that is all there is.
                words = "closes its connection" if server == "redis" else \
                    "drops its connection without closing it"
                self.add(event, words, to=server)
        elif by == "server":
            if where not in self.closed:
                self.add(event, f"{name} ends the connection", lane=server, to=event.who)
        else:
            self.add(event, f"its connection to {name} is cut")

    # -- what a client asks an API

    def request(self, event: Event) -> None:
        self.add(event, self.words(event.text), to=event.data["to"])

    # -- what became of tasks

    def row_changed(self, event: Event) -> None:
        data = event.data
        task, old, new = self.label(data.get("task", "")), data.get("old"), data.get("new")
        if old is None and new is not None:
            if any(d.kind == h.TASK_ADDED for d in self.drafts):
                for draft in self.drafts:
                    if draft.kind == h.TASK_ADDED and task in draft.labels:
                        # of several in one row, only what is true of all
                        draft.status = str(new) if draft.status in ("", new) else MIXED
                return  # the grader's own INSERT, told already
            text = f"{task}: added as {new}"
        elif new is None:
            text = f"{task}: deleted (was {old})"
        elif old == new:
            text = f"{task}: still {new}"
        else:
            text = f"{task}: {old} → {new}"
        worker = data.get("worker")
        if worker and new == "processing":
            text += f", assigned_worker {cut(str(worker), 30)}"
        draft = self.add(event, text, solid=False)
        draft.labels, draft.was, draft.status = [task], str(old or ""), str(new or "")
        draft.worker = str(worker or "") if new == "processing" else ""

    def call_arrived(self, event: Event) -> None:
        call = event.data.get("call")
        if call is None:
            self.other(event)
            return
        task = self.label(call.task_id)
        times = self.times_called[task] = self.times_called.get(task, 0) + 1
        again = "" if times == 1 else f", execution number {times}"
        draft = self.add(event, f"executes {task}{again}", lane=str(call.process), to=WORLD)
        self.work(draft, call)

    def call_answered(self, event: Event) -> None:
        call = event.data.get("call")
        if call is None:
            self.other(event)
            return
        self.work(self.add(event, f"work on {self.label(call.task_id)} {_answer(call.answer)}",
                           lane=WORLD, to=str(call.process)), call)

    def call_lost(self, event: Event) -> None:
        call = event.data.get("call")
        if call is None:
            self.other(event)
            return
        self.work(self.add(event, f"gives up its call for {self.label(call.task_id)} before the "
                           "answer", lane=str(call.process), to=WORLD), call)

    def work(self, draft: _Draft, call: Any) -> None:
        draft.labels, draft.worker = [self.label(call.task_id)], str(call.process)


def _server_of(step: Any) -> str | None:
    named = getattr(step, "server", None)
    if named in SERVERS:
        return named
    if step.kind in ("command", "reply"):
        return "redis"
    if step.kind == "query" or getattr(step, "statements", None) or getattr(step, "backend", None):
        return "postgres"
    return None


def _outcome(step: Any) -> str:
    """What the server said, in words; empty where it only said done."""
    if step.error:
        return f"ERROR: {cut(clean(step.error), 80)}"
    tags = step.tags or ()
    if isinstance(tags, str):
        tags = (tags,)
    if step.kind != "query":
        return cut(clean(", ".join(map(str, tags))), 60)
    counts = [int(m[1]) for m in map(_TAG.match, map(str, tags)) if m]
    return ", ".join({0: "no row", 1: "1 row"}.get(n, f"{n} rows") for n in counts)


def _after(step: Any) -> str:
    came = _outcome(step)
    return f" → {came}" if came else ""


def _answer(answer: Any) -> str:
    if isinstance(answer, (tuple, list)) and answer:
        answer = answer[0]
    if isinstance(answer, int):
        return f"is done ({answer})" if 200 <= answer < 300 else f"fails ({answer})"
    known = {"finish": "is done", "fail": "fails", "never": "is never answered"}
    return known.get(str(answer), f"is answered: {cut(clean(str(answer)), 40)}")


def _fold_logs(drafts: list[_Draft]) -> list[_Draft]:
    """Of more than five log lines in a row from one process, keep the first two and the last."""
    out: list[_Draft] = []
    i = 0
    while i < len(drafts):
        j = i
        while j < len(drafts) and drafts[j].kind == h.LOG and drafts[j].lane == drafts[i].lane:
            j += 1
        run = drafts[i:j]
        if len(run) > 5 and not any(d.broke for d in run[2:-1]):
            gap = replace(run[2], text=f"… {len(run) - 3} more log lines",
                          kind=results.GAP)
            out += [*run[:2], gap, run[-1]]
        else:
            out += run or [drafts[i]]
        i = max(j, i + 1)
    return out


def _fold_repeats(drafts: list[_Draft]) -> list[_Draft]:
    """Show once what was done three times or more in a row, such as an idle poll."""
    keys = [d.key for d in drafts]
    out: list[_Draft] = []
    i = 0
    while i < len(drafts):
        for period in range(1, LONGEST_PERIOD + 1):
            block = keys[i : i + period]
            times = 1
            while keys[i + times * period : i + (times + 1) * period] == block:
                times += 1
            # two log lines that happen to be alike are not worth folding
            if times >= 3 and drafts[i].kind != h.TASK_ADDED:
                end = i + times * period
                folded = drafts[i + period : end]
                what = "this" if period == 1 else f"these {period} rows"
                out += drafts[i : i + period]
                last = drafts[end - 1]
                out.append(_Draft(folded[0].n, last.at, drafts[i].lane, None,
                                  f"… {what} {times - 1} times more, until {last.at:.3f}",
                                  kind=results.GAP, broke=any(d.broke for d in folded)))
                i = end
                break
        else:
            out.append(drafts[i])
            i += 1
    return out


def _leave_out_middle(drafts: list[_Draft], most: int) -> list[_Draft]:
    """The first rows, and those around the one that broke, or the last ones."""
    broke = next((i for i, d in enumerate(drafts) if d.broke), None)
    head = most // 3
    start = len(drafts) - (most - head) + 1
    if broke is not None and head <= broke < len(drafts) - (most - head):
        # keep the row that matters, and what led to it
        start = max(head, broke - (most - head) // 2)
    tail = drafts[start:][: most - head - 1]
    gap = len(drafts) - head - len(tail)
    note = _Draft(drafts[head].n, drafts[head].at, GRADER, None, f"… {gap} rows left out",
                  kind=results.GAP)
    if start == head:  # all that is left out comes after them
        return [*drafts[:head], *tail, replace(note, n=tail[-1].n, at=tail[-1].at)]
    return [*drafts[:head], note, *tail]


# --- from rows to text ----------------------------------------------------------------------------


def worth_drawing(timeline: Sequence[TimelineRow]) -> bool:
    """Whether there is anything but the grader's own words."""
    return any(row.lane != GRADER for row in timeline)


def draw(timeline: Sequence[TimelineRow], width: int = 100, most: int | None = SHOWN_ROWS
         ) -> list[str]:
    """The timeline as text in at most `width` columns, without colour.

    most: how many rows are shown; of a longer timeline the beginning, the rows around the one
        marked "broke" and the end are, and a line says how many were left out. None: all.
    """
    return ["".join(text for _, text in line).rstrip() for line in lines(timeline, width, most)]


def lines(timeline: Sequence[TimelineRow], width: int = 100, most: int | None = SHOWN_ROWS
          ) -> list[Line]:
    """As `draw`, in styled parts."""
    if not timeline:
        return []
    lanes = lanes_of(timeline)
    widths = [max(width_of(lane_name(lane)) + 2, 9) for lane in lanes]
    time_width = max(7, max(len(f"{row.at:.3f}") for row in timeline)) + 3
    # too many lanes to leave room for words: name them in each row instead
    drawn = sum(widths) + time_width <= width * 0.55
    if not drawn:
        names = [cut(lane_name(lane), 20) for lane in lanes]
        widths = [min(2 * max(map(width_of, names)) + 4, 46)]
    text_at = time_width + sum(widths) + 1
    text_width = width - text_at
    out: list[Line] = []
    blank = " " * time_width
    if drawn:
        heads = "".join(pad(lane_name(lane), w) for lane, w in zip(lanes, widths, strict=True))
        out.append([("dim", "seconds".rjust(time_width - 1) + " "), ("bold", heads)])
    alive = lifetimes(timeline, lanes)
    previous = -1
    for i in chosen(timeline, most):
        if i > previous + 1:
            gap = i - previous - 1
            rows_ = "row" if gap == 1 else "rows"
            out.append([("dim", f"{blank}… {gap} {rows_} left out; VERBOSE=1 shows all")])
        previous = i
        row = timeline[i]
        broke = row.mark == BROKE
        words = clean(row.text)
        if broke and row.lane != GRADER:
            words += "  ◀ HERE"
        wrapped = _fit(words, text_width)
        living = [first <= i <= last for first, last in alive]
        picture = _picture(row, lanes, widths, living) if drawn else _spoken(row, widths[0])
        still = _still(lanes, widths, living) if drawn else " " * widths[0]
        gutter = ">> " if broke else "   "
        time = f"{row.at:.3f}".rjust(time_width - 4) + " "
        style = "bad" if broke else _style(row)
        out.append([("bad", gutter), ("bad" if broke else "dim", time),
                    ("bad" if broke else "", picture), (style, " " + wrapped[0])])
        out += [[("", blank), ("dim", still), (style, " " + more)] for more in wrapped[1:]]
    if previous < len(timeline) - 1:
        gap = len(timeline) - 1 - previous
        out.append([("dim", f"{blank}… {gap} rows left out; VERBOSE=1 shows all")])
    return out


def _fit(words: str, width: int) -> list[str]:
    """The words in a few lines. What is too much goes from the middle: the end says what came."""
    wrapped = wrap(words, width)
    room = width * MOST_LINES
    while len(wrapped) > MOST_LINES:
        wrapped = wrap(cut(words, room, middle=True), width)
        room -= 4
    return wrapped


def _style(row: TimelineRow) -> str:
    if row.text.startswith((LOG, "…")):
        return "dim"
    if row.lane in SERVERS and row.to is None:
        return "bold"  # what became of a task
    return "wait" if re.match(r"SIG[A-Z]+ is sent|ended by SIG", row.text) else ""


def lane_name(lane: str) -> str:
    """What a reader calls it."""
    return SERVERS.get(lane, clean(lane))


def lanes_of(timeline: Sequence[TimelineRow]) -> list[str]:
    """All lanes but the grader's, in their order: client, processes, servers, world."""
    seen = {lane for row in timeline for lane in (row.lane, row.to) if lane and lane != GRADER}
    fixed = [*SERVERS, WORLD]
    processes = sorted(seen - set(fixed), key=lambda name: (name != CLIENT, natural(name)))
    return processes + [lane for lane in fixed if lane in seen]


def natural(name: str) -> list[tuple[int, int, str]]:
    """For sorting: worker-2 before worker-10."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name)]


def lifetimes(timeline: Sequence[TimelineRow], lanes: list[str]) -> list[tuple[int, int]]:
    """For each lane the first and last row between which its line is drawn."""
    spans = []
    for lane in lanes:
        if lane in SERVERS or lane == WORLD:
            spans.append((0, len(timeline)))
            continue
        touched = [i for i, row in enumerate(timeline) if lane in (row.lane, row.to)]
        ended = [i for i in touched if timeline[i].lane == lane and timeline[i].to is None
                 and re.match(r"exits with status|ended by ", timeline[i].text)]
        spans.append((touched[0], ended[-1] if ended else len(timeline)))
    return spans


def chosen(timeline: Sequence[TimelineRow], most: int | None) -> list[int]:
    """The numbers of the rows that are shown, if at most about so many are (None: all)."""
    count = len(timeline)
    if most is None or count <= most:
        return list(range(count))
    marked = [i for i, row in enumerate(timeline) if row.mark == BROKE]
    centre = marked[0] if marked else count - 1
    keep = {*range(min(5, most // 4)), *range(count - 2, count), *marked}
    # four times as much of what led to it as of what came after
    near = sorted(range(count), key=lambda i: (centre - i) / 4 if i <= centre else i - centre)
    for i in near:
        if len(keep) >= most:
            break
        keep.add(i)
    # a gap of one row costs a line as well: show the row
    return [i for i in range(count) if i in keep or (i - 1 in keep and i + 1 in keep)]


def _picture(row: TimelineRow, lanes: list[str], widths: list[int], living: list[bool]) -> str:
    places = [sum(widths[:k]) + 2 for k in range(len(lanes))]
    cells = list(" " * sum(widths))
    for place, lives in zip(places, living, strict=True):
        if lives:
            cells[place] = "│"
    if row.lane not in lanes:
        return "".join(cells)
    here = places[lanes.index(row.lane)]
    if row.to is None or row.to not in lanes or row.to == row.lane:
        cells[here] = "·" if row.text.startswith((LOG, "…")) else "●"
        return "".join(cells)
    there = places[lanes.index(row.to)]
    left, right = sorted((here, there))
    for k in range(left + 1, right):
        cells[k] = "─"
    cells[here] = "├" if here < there else "┤"
    cells[there - 1 if here < there else there + 1] = "▶" if here < there else "◀"
    return "".join(cells)


def _still(lanes: list[str], widths: list[int], living: list[bool]) -> str:
    nobody = TimelineRow(0.0, GRADER, None, "")
    return _picture(nobody, lanes, widths, living)


def _spoken(row: TimelineRow, width: int) -> str:
    name = "" if row.lane == GRADER else cut(lane_name(row.lane), 20)
    if row.to:
        name += f" → {cut(lane_name(row.to), 20)}"
    return pad(name, width)
