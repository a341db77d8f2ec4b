"""The drawn timeline: what stands in it, that it can be read, and the files that hold it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest

from graders.harness import catalog, mutants, results, settings
from graders.harness import history as h
from graders.harness.report import drawings, json_report, spans, svg, svg_style, terminal, timeline
from graders.harness.report.text import clean, width_of
from graders.harness.results import TimelineRow
from graders.tests import report_samples as samples
from graders.tests.report_samples import T1, T2, Tale

SVG = "{http://www.w3.org/2000/svg}"
SAMPLES = {
    "executed twice": timeline.rows(*samples.executed_twice()),
    "dropped on SIGTERM": timeline.rows(*samples.dropped_on_sigterm()),
    "polling": timeline.rows(samples.polling(3)),
    "hostile": samples.hostile().checks[5].timeline,
}


def read(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)


def text_of(root: ET.Element) -> list[str]:
    return ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]


def titles_of(root: ET.Element) -> list[str]:
    return ["".join(each.itertext()) for each in root.iter(f"{SVG}title")]


def extent(text: ET.Element) -> tuple[float, float]:
    """Where a text begins and ends, as its font is no wider than the drawing supposes."""
    wide = width_of("".join(text.itertext())) * svg_style.COLUMN
    if "title" in text.get("class", ""):
        wide *= 16 / svg_style.SIZE
    x = float(text.get("x"))
    x -= {"end": wide, "middle": wide / 2}.get(text.get("text-anchor", ""), 0)
    return x, x + wide


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [svg.WIDTH, svg.NARROW])
def test_it_is_a_document_that_tells_every_row(name: str, width: int) -> None:
    rows = SAMPLES[name]
    root = read(svg.svg(rows, "a check", "what was seen", width))
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    told = "\n".join(titles_of(root))
    for i in timeline.chosen(rows, svg.MOST_ROWS):
        assert clean(rows[i].text) in told
    assert {"a check", "what was seen"} <= set(text_of(root))


@pytest.mark.parametrize("name", SAMPLES)
def test_its_text_twin_is_its_description(name: str) -> None:
    root = read(svg.svg(SAMPLES[name], "a check", "what was seen"))
    ids = root.get("aria-labelledby").split()
    label, description = (next(e for e in root.iter() if e.get("id") == each) for each in ids)
    assert label.text == "a check"
    for line in description.text.split("\n")[1:]:
        assert line in svg.spoken(SAMPLES[name])
    assert sum("HERE it broke" in line for line in svg.spoken(SAMPLES[name])) == sum(
        row.mark == timeline.BROKE for row in SAMPLES[name])


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [svg.WIDTH, svg.NARROW])
def test_no_text_leaves_its_place(name: str, width: int) -> None:
    root = read(svg.svg(SAMPLES[name], "a check " * 20, "what was seen " * 90, width))
    page = float(root.get("width"))
    assert page >= width
    lines: dict[float, list[tuple[float, float, str]]] = {}

    def walk(element: ET.Element, dx: float, dy: float) -> None:
        moved = re.match(r"translate\(([\d.]+) ([\d.]+)\)", element.get("transform", ""))
        if moved:
            dx, dy = dx + float(moved[1]), dy + float(moved[2])
        if element.tag == f"{SVG}text":
            left, right = extent(element)
            words = "".join(element.itertext())
            assert left + dx >= 0, words
            assert right + dx <= page + 0.5, words
            assert float(element.get("y")) + dy <= float(root.get("height"))
            lines.setdefault(float(element.get("y")) + dy, []).append(
                (left + dx, right + dx, words))
        for child in element:
            walk(child, dx, dy)

    walk(root, 0, 0)
    for texts in lines.values():
        texts.sort()
        for (_, end, one), (start, _, other) in pairwise(texts):
            # a bar's own name and that of the work in it are the same, one over the other
            assert end <= start + 0.5 or one == other, (one, other)


def test_the_broken_row_is_pointed_at() -> None:
    root = read(svg.svg(SAMPLES["executed twice"], "a check"))
    assert text_of(root).count("HERE") == 1
    (row,) = [g for g in root.iter(f"{SVG}g") if "HERE" in text_of(g)]
    assert "executes T1, execution number 2" in text_of(row)
    assert "HERE" not in text_of(read(svg.svg(SAMPLES["polling"], "a check")))


def test_a_tooltip_tells_the_whole_statement() -> None:
    rows = SAMPLES["executed twice"]
    told = titles_of(read(svg.svg(rows, "a check")))
    claim = next(title for title in told if "SET status = 'processing'" in title)
    assert "SET status = 'processing', …" in claim
    assert "assigned_worker = $1, updated_at = now()" in claim
    assert f"with 'worker-1', '{T1}'" in claim
    assert any(title.endswith("worker-1: log: INFO worker started id=worker-1 "
                              "poll_interval=3600.0") for title in told)


def test_statuses_claims_and_work_are_drawn_with_their_names() -> None:
    rows = SAMPLES["executed twice"]
    root = read(svg.svg(rows, "a check"))
    words = text_of(root)
    assert {"pending", "processing", "completed", "T1", "worker-1", "worker-2"} <= set(words)
    told = titles_of(root)
    assert sum(t.startswith("worker-1 has claimed T1, from ") for t in told) == 1
    assert sum(t.startswith("worker-2 works on T1, from ") for t in told) == 1
    bands = spans.bands(rows)["T1"]
    assert [band.status for band in bands] == ["pending", "processing", "completed"]
    assert rows[bands[0].first].kind == results.ADDED
    claims = [(bar.lane, bar.last is None) for bar in spans.bars(rows, ["worker-1", "worker-2"])
              if bar.kind == spans.CLAIM]
    # the row names one worker at a time: the second takes the first one's claim away
    assert claims == [("worker-1", False), ("worker-2", False)]


def test_work_that_was_dropped_ends_lost_and_its_claim_stays() -> None:
    rows = SAMPLES["dropped on SIGTERM"]
    claim, work = spans.bars(rows, ["worker-1"])
    assert (claim.kind, claim.last, claim.slot) == (spans.CLAIM, None, 0)
    assert work.lost
    assert rows[work.last].kind == results.WORK_LOST
    told = titles_of(read(svg.svg(rows, "a check")))
    assert any(title.endswith("the work was never finished") for title in told)
    words = text_of(read(svg.svg(rows, "a check")))
    assert {"SIGTERM", "ended", "starts"} <= set(words)


def test_tasks_at_one_time_stand_side_by_side() -> None:
    tale = Tale()
    tale.start("worker-1")
    calls = [tale.call("worker-1", task) for task in (T1, T2)]
    for call in calls:
        tale.finish(call)
    tale.call("worker-1", T1)
    bars = spans.bars(timeline.rows(tale.events), ["worker-1"])
    assert [bar.slot for bar in bars] == [0, 1, 0]


def test_a_workers_end_is_the_end_of_its_work() -> None:
    tale = Tale()
    tale.call("worker-1", T1)
    tale.call("worker-1", T1)
    tale.add(h.EXIT, "worker-1", code=1, signal=None)
    tale.add(h.NOTE, "grader", "later")
    bars = spans.bars(timeline.rows(tale.events), ["worker-1"])
    assert [(bar.last, bar.lost) for bar in bars] == [(2, True), (2, True)]


def test_only_the_tasks_near_the_broken_row_have_bands() -> None:
    tale = Tale()
    for n in range(9):
        task = f"{T1[:-2]}{n:02}"
        tale.task(task, f"T{n}")
        tale.row(task, "pending", "processing", "worker-1")
    rows = timeline.rows(tale.events, tale.events[3])
    assert spans.near_the_broken(rows, [f"T{n}" for n in range(9)]) == ["T0", "T1", "T2", "T3"]
    words = text_of(read(svg.svg(rows, "a check")))
    assert "T8" not in words
    assert any("The status of 5 other tasks is not drawn." in line for line in words)


def test_every_kind_of_row_is_told_apart_by_its_shape() -> None:
    drawn = {mark("p", 0, 0) for mark, _ in svg_style.MARKS.values()}
    assert len(drawn) == len(svg_style.MARKS)
    statuses = ("pending", "processing", "completed", "failed", "on hold")
    assert len({svg_style.pattern("p", s) for s in statuses}) == len(statuses)
    assert len({svg_style.border(s) for s in statuses}) == len(statuses)


def test_all_rows_have_a_kind_of_the_vocabulary() -> None:
    for rows in SAMPLES.values():
        assert {row.kind for row in rows} <= set(results.ROW_KINDS)
    kinds = json_report.schema()["$defs"]["row"]["properties"]["kind"]["enum"]
    assert kinds == list(results.ROW_KINDS)


def _bright(color: str) -> float:
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines compute it."""
    bright, dark = sorted((_bright(one), _bright(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colors", [svg_style.LIGHT, svg_style.DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), [
    ("text", "ground"), ("quiet", "ground"), ("text", "claim"), ("on-work", "work"),
    ("on-broke", "broke"), ("text", "broke-ground"), ("quiet", "broke-ground"),
])
def test_text_can_be_read(colors: dict[str, str], text: str, ground: str) -> None:
    assert contrast(colors[text], colors[ground]) >= 4.5


def test_light_and_dark_are_both_there() -> None:
    drawing = svg.svg(SAMPLES["polling"], "a check")
    light, dark = drawing.split("prefers-color-scheme: dark")
    assert svg_style.LIGHT["ground"] in light
    assert svg_style.DARK["ground"] in dark
    used = set(re.findall(r"var\((--[\w-]+)\)", drawing))
    assert used == {f"--{name}" for name in svg_style.LIGHT} == {
        f"--{name}" for name in svg_style.DARK}
    assert svg_style.SIZE >= 13


def test_it_needs_nothing_else() -> None:
    drawing = svg.svg(SAMPLES["executed twice"], "a check")
    assert "<script" not in drawing
    assert "http" not in drawing.replace("http://www.w3.org/2000/svg", "")
    assert "@import" not in drawing
    assert "@font-face" not in drawing


def test_two_in_one_page_share_no_name() -> None:
    page = f"<div>{''.join(svg.figure(SAMPLES[n], 'x') for n in ('polling', 'hostile'))}</div>"
    root = read(page)
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    drawn = list(root.iter(f"{SVG}svg"))
    assert len(drawn) == 4  # of each a wide one and a narrow one
    for drawing in drawn:
        name = drawing.get("class")
        for each in drawing.iter():
            for word in (each.get("class") or name).split():
                assert word == name or word.startswith(f"{name}-")
        for used in re.findall(r"url\(#([\w-]+)\)", ET.tostring(drawing, "unicode")):
            assert used in {each.get("id") for each in drawing.iter()}


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


def test_hostile_text_stays_text() -> None:
    bad = "</svg></title><script>alert(1)</script>&amp;\x1b[31m\x00\ufffe\u202e\udcff\n]]>"
    rows = [
        TimelineRow(0.0, bad, None, bad, kind=results.ADDED, tasks=(bad,), status=bad),
        TimelineRow(1.0, "worker-1", bad, bad, kind=results.MESSAGE, detail=bad),
        TimelineRow(1.0, "postgres", None, bad, "broke", results.STATUS, (bad,), bad, bad + bad,
                    "worker-1"),
        TimelineRow(1.0, "worker-1", "world", bad, kind=results.WORK, tasks=(bad,),
                    worker="worker-1"),
    ]
    drawing = svg.svg(rows, bad, bad)
    assert not any(ord(char) < 32 and char != "\n" for char in drawing)
    assert not set("\u202e\ufffe\x7f") & set(drawing)
    drawing.encode("utf-8")
    root = read(drawing)
    assert root.find(f".//{SVG}script") is None
    assert any("</svg></title><script>alert(1)</script>&amp;" in t for t in titles_of(root))
    assert "script" not in _Page(svg.figure(rows, bad, bad)).tags


def test_a_long_timeline_is_bounded_and_keeps_what_matters() -> None:
    rows = [TimelineRow(n / 10, "worker-1", "postgres", f"row {n}", "broke" if n == 700 else "",
                        results.MESSAGE) for n in range(1000)]
    root = read(svg.svg(rows, "a check"))
    words = text_of(root)
    shown = [word for word in words if re.fullmatch(r"row \d+", word)]
    assert len(shown) <= svg.MOST_ROWS + 2
    assert {"row 0", "row 700", "row 999"} <= set(shown)
    left = [int(m[1]) for m in (re.fullmatch(r"… (\d+) rows? left out", w) for w in words) if m]
    assert sum(left) + len(shown) == 1000
    assert float(root.get("height")) < 4000
    assert words.count("worker-1") > 1, "the lanes are named again further down"
    description = root.find(f"{SVG}desc").text
    assert f"{1000 - len(shown)} more rows are not drawn." in description
    assert len(svg.spoken(rows)) == 1000


def test_a_status_that_changed_where_nothing_is_drawn_is_still_true() -> None:
    rows = [TimelineRow(0.0, "grader", None, "adds T1", kind=results.ADDED, tasks=("T1",),
                        status="pending"),
            *(TimelineRow(n / 10, "worker-1", None, f"row {n}") for n in range(1, 400))]
    rows[100] = TimelineRow(10.0, "postgres", None, "T1: pending → processing", "",
                            results.STATUS, ("T1",), "pending", "processing", "worker-1")
    rows[390] = replace(rows[390], mark="broke")
    words = text_of(read(svg.svg(rows, "a check")))
    assert "T1: pending → processing" not in words
    assert "processing" in words


def test_no_name_is_hidden_below_the_names_of_the_lanes() -> None:
    rows = [TimelineRow(n / 10, "worker-1", None, f"row {n}") for n in range(60)]
    for n in range(10, 60, 7):  # wherever the lanes are named again
        rows[n] = TimelineRow(n / 10, "postgres", None, "T1", "", results.STATUS, ("T1",),
                              status=f"state {n}")
        root = read(svg.svg(rows[: n + 20], "a check"))
        grounds = [(float(r.get("y")), float(r.get("y")) + float(r.get("height")))
                   for r in root.iter(f"{SVG}rect")
                   if r.get("x") == "0" and r.get("class").endswith("-ground")]
        assert len(grounds) >= 1 + (n + 20 > svg.HEADS_EVERY)
        names = [float(t.get("y")) for t in root.iter(f"{SVG}text") if t.text == f"state {n}"]
        assert names
        for top, end in grounds:
            assert not any(top < y - 9 < end or top < y - 1 < end for y in names)


def test_many_lanes_make_it_wider() -> None:
    tale = Tale()
    for n in range(14):
        tale.say(f"worker-{n}", "SELECT 1", "SELECT 1")
    root = read(svg.svg(timeline.rows(tale.events), "a check"))
    assert float(root.get("width")) > svg.WIDTH
    assert {f"worker-{n}" for n in range(14)} <= set(text_of(root))


def test_nothing_to_draw() -> None:
    root = read(svg.svg([], "a check"))
    assert "Nothing was seen." in text_of(root)
    assert "Nothing was seen." in svg.figure([], "a check")


def test_pauses_are_told() -> None:
    rows = [TimelineRow(at, "worker-1", None, "x") for at in (0.0, 0.1, 2.4)]
    assert "2.3 seconds later" in text_of(read(svg.svg(rows, "a check")))


# --- the files ------------------------------------------------------------------------------------


def test_each_failed_check_is_drawn_into_a_file_and_old_files_go(tmp_path: Path) -> None:
    old = tmp_path / "timeline-gone.svg"
    old.write_text("of an earlier grading")
    other = tmp_path / "score.json"
    other.write_text("{}")
    drawn = drawings.write(samples.failing(), tmp_path)
    json_report.write(drawn, tmp_path / "results.json")
    drawings.remove_old(drawn, tmp_path)
    names = {f"timeline-{check.name}.svg" for check in samples.failing().checks
             if check.verdict == results.FAILED}
    assert len(names) == 2
    assert {path.name for path in tmp_path.iterdir()} == {*names, "score.json", "results.json"}
    told = json.loads((tmp_path / "results.json").read_text())
    jsonschema.Draft202012Validator(json_report.schema()).validate(told)
    assert {check["drawing"] for check in told["checks"]} == {None, *names}
    for name in names:
        assert "HERE" in text_of(read((tmp_path / name).read_text(encoding="utf-8")))


def test_the_terminal_names_the_file() -> None:
    result = replace(samples.failing(), folder="reports/lab03")
    assert "Drawn in" not in "".join(w for line in terminal.report(result) for _, w in line)
    checks = tuple(replace(c, drawing=f"timeline-{c.name}.svg") if c.timeline else c
                   for c in result.checks)
    lines = ["".join(words for _, words in line)
             for line in terminal.report(replace(result, checks=checks))]
    assert lines.count("Drawn in reports/lab03/timeline-never_executes_a_task_twice.svg") == 1


def test_a_check_without_a_finding_or_a_timeline_has_no_file(tmp_path: Path) -> None:
    passed = drawings.write(samples.passing(), tmp_path / "reports")
    assert not (tmp_path / "reports").exists()
    assert not any(check.drawing for check in passed.checks)
    words = (TimelineRow(0.0, "grader", None, "found: submission-unusable", "broke"),)
    checks = tuple(replace(check, timeline=words) for check in samples.failing().checks)
    drawings.write(replace(samples.failing(), checks=checks), tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


def test_a_grading_writes_them_and_the_next_one_takes_them_away(tmp_path: Path) -> None:
    lab = settings.lab("03")
    mutant = next(m for m in mutants.mutants(lab) if m.name == "syntax_error")
    wrong = mutants.make(lab, mutant, tmp_path / "wrong")
    reports = tmp_path / "reports"
    result = catalog.grade_folder(lab, wrong, ["completes_a_pending_task"], write_to=reports)
    name = "timeline-completes_a_pending_task.svg"
    assert result.checks[0].drawing == name
    assert "worker-1" in text_of(read((reports / name).read_text(encoding="utf-8")))
    assert json.loads((reports / "results.json").read_text())["checks"][0]["drawing"] == name
    right = settings.ROOT / "solutions" / "lab03"
    catalog.grade_folder(lab, right, ["completes_a_pending_task"], write_to=reports)
    assert [path.name for path in reports.iterdir()] == ["results.json"]


def test_what_cannot_be_written_is_told_and_named_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawings.json_report, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        drawings.write(samples.failing(), tmp_path)
    lab = settings.lab("03")
    mutant = next(m for m in mutants.mutants(lab) if m.name == "syntax_error")
    wrong = mutants.make(lab, mutant, tmp_path / "wrong")
    result = catalog.grade_folder(lab, wrong, ["completes_a_pending_task"],
                                  write_to=tmp_path / "reports")
    assert result.extra["not_written"] in result.notes
    assert not result.checks[0].drawing
