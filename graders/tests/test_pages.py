"""The students' answers beside the reference answers, and the table for marks."""

from __future__ import annotations

import codecs
import csv
import io
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graders.classes import pages, papers
from graders.classes.marks import guarded
from graders.classes.pages import Answered, blocks, write
from graders.classes.papers import MOST, read
from graders.classes.questions import Matched, match, sheet
from graders.harness import reset, settings

LAB = settings.lab("03")
STARTER = reset.original_of(LAB)[papers.NAME]
SHEET = sheet(STARTER)
REFERENCE = settings.ROOT / "solutions" / LAB.name / papers.NAME
PLACEHOLDER = "_Your answer:_"
TITLES = {q.number: q.title for q in SHEET.questions}


def filled(answers: dict[int, str], text: str = STARTER) -> str:
    """The starter with these answers under their questions."""
    out, number = [], 0
    for line in text.splitlines():
        if line.startswith("### "):
            number = int(line[4:].split(".")[0])
        if line == PLACEHOLDER and number in answers:
            line = f"{line}\n\n{answers[number]}"
        out.append(line)
    return "\n".join(out) + "\n"


ALL = filled({n: f"Answer {n}." for n in TITLES})


def heading(number: int) -> str:
    return f"### {number}. {TITLES[number]}"


def texts(found: Matched) -> dict[int, str]:
    return {n: "\n".join(part.text for part in parts) for n, parts in found.answers.items()}


def loose(found: Matched) -> str:
    return "\n".join(f"{part.heading}\n{part.text}" for part in found.loose)


def student(folder: Path, data: bytes | str, name: str = "Ada") -> Answered:
    folder.mkdir(parents=True)
    raw = data.encode() if isinstance(data, str) else data
    (folder / papers.NAME).write_bytes(raw)
    return Answered(folder.name, name, folder)


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


# Matching


@pytest.mark.parametrize("name", [lab.name for lab in settings.labs()])
def test_each_question_has_a_page_and_a_reference_answer(name, tmp_path):
    lab = settings.lab(name)
    own = sheet((settings.ROOT / "starter" / name / papers.NAME).read_text(encoding="utf-8"))
    asked = own.questions
    assert [q.number for q in asked] == list(range(1, len(asked) + 1))
    assert len(asked) >= 10
    assert all(q.text.endswith(("?", ".")) and ">" not in q.text for q in asked)
    reference = settings.ROOT / "solutions" / name / papers.NAME
    found = match(reference.read_text(encoding="utf-8"), own)
    assert sorted(found.answers) == [q.number for q in asked]
    paths = write(lab, reference, [], tmp_path / "answers")
    for question in asked:
        path = tmp_path / "answers" / f"question-{question.number:02d}.html"
        assert path in paths
        page = Tags(path.read_text(encoding="utf-8")).text
        assert question.title in page
        first = found.answers[question.number][0].text.split(". ")[0].split("\n")[0]
        assert first in page
        assert "reference answers has none" not in page
    assert {p.name for p in paths} >= {"index.html", "not-matched.html", "marks.csv"}


def test_an_untouched_starter_has_no_answers():
    assert match(STARTER, SHEET) == Matched()
    assert match("", SHEET) == Matched()


def test_answers_are_found_under_the_headings_as_they_came():
    found = match(ALL, SHEET)
    assert texts(found) == {n: f"Answer {n}." for n in TITLES}
    assert found.loose == ()
    assert all(not part.heading for parts in found.answers.values() for part in parts)


def test_renumbered_headings_go_by_their_words():
    text = ALL.replace(heading(3), "### 99. X")  # then cut out
    start, end = text.index("### 99. X"), text.index(heading(4))
    text = text[:start] + text[end:]
    for n in range(4, 15):
        text = text.replace(heading(n), f"### {n - 1}. {TITLES[n]}")
    found = match(text, SHEET)
    assert texts(found) == {n: f"Answer {n}." for n in TITLES if n != 3}
    assert found.loose == ()
    assert found.answers[4][0].heading == f"### 3. {TITLES[4]}"


@pytest.mark.parametrize(
    "written",
    [
        "### 4. What I think of it",
        "### 4",
        "## 4) Poling or pushing?",
        "### Question 4",
        "### Q4: polling",
        "### Polling or push",
        "### Polling vs. push",
        "#### **4. Polling or push**",
        "###4.Polling or push",
        "### (4) Polling",
        "**4. Polling or push**",
        "4. Polling or push",
        "**Question 4**",
        "Question 4:",
        "4. Polling or push\n------------------",
        "Polling or push\n===",
        "### What does polling cost compared with being told of new work, what is it better at?",
    ],
)
def test_a_heading_in_other_words_is_known(written):
    found = match(ALL.replace(heading(4), written), SHEET)
    assert texts(found) == {n: f"Answer {n}." for n in TITLES}
    assert found.answers[4][0].heading == written
    assert found.loose == ()


def test_all_headings_in_another_style():
    text = "\n".join(f"Question {n}\n\nAnswer {n}.\n" for n in TITLES)
    assert texts(match(text, SHEET)) == {n: f"Answer {n}." for n in TITLES}
    text = "\n".join(f"# {n}\nAnswer {n}.\n## 1. a step\nmore" for n in TITLES)
    assert texts(match(text, SHEET))[9] == "Answer 9.\n## 1. a step\nmore"


def test_a_heading_that_names_nothing_is_kept_aside_where_a_question_is_missing():
    found = match(ALL.replace(heading(5), "### How mine stops"), SHEET)
    assert 5 not in found.answers
    assert texts(found)[4] == "Answer 4."
    assert [(p.heading, p.after) for p in found.loose] == [("### How mine stops", 4)]
    assert "Answer 5." in loose(found)


def test_headings_within_an_answer_are_part_of_it():
    answer = "### Step by step\n\n#### 1. First\nA\n\n# ps aux\n\n## 2. Then\nB\n\n### Idle x y z"
    found = match(filled({4: answer, 5: "Answer 5.", 1: "One.", 2: "Two."}), SHEET)
    assert texts(found) == {1: "One.", 2: "Two.", 4: answer, 5: "Answer 5."}
    assert found.loose == ()


def test_deleted_headings_leave_nothing_out():
    text = "\n".join(line for line in ALL.splitlines() if not line.startswith("### "))
    found = match(text, SHEET)
    assert found.answers == {}
    assert all(f"Answer {n}." in loose(found) for n in TITLES)
    assert "Write below each question" not in loose(found)
    assert "idle loop" not in loose(found)  # the questions themselves are not the student's


def test_answers_in_one_block():
    found = match("My answers\n\n1. Locks.\n2. It hangs.\n3. wait()\n", SHEET)
    assert found.answers == {}
    assert loose(found).strip() == "My answers\n\n1. Locks.\n2. It hangs.\n3. wait()"


def test_answers_that_are_merged_are_shown_with_each_of_their_questions():
    found = match("### 1-3\nLocks.\n### 5, 6 and 8\nEvents.\n### 1.5 seconds\n", SHEET)
    assert texts(found) == {
        1: "Locks.", 2: "Locks.", 3: "Locks.",
        5: "Events.", 6: "Events.", 8: "Events.",
    }  # fmt: skip
    assert loose(found) == "### 1.5 seconds\n"  # no number of a question


def test_a_table_of_contents_takes_nothing_away():
    contents = "\n".join(f"{n}. {title}" for n, title in TITLES.items())
    found = match(contents + "\n\n" + ALL, SHEET)
    assert texts(found) == {n: f"Answer {n}." for n in TITLES}


def test_a_question_that_is_there_twice_has_both_answers():
    found = match(ALL + "\n" + heading(2) + "\n\nMore.\n", SHEET)
    assert [part.text for part in found.answers[2]] == ["Answer 2.", "More."]


def test_code_has_no_headings_and_a_fence_that_is_not_closed_ends_at_the_next_question():
    code = "```sh\n# 5. a comment\n### 7. A new type of task, but in code\n"
    found = match(filled({4: code + "```", 5: "Answer 5."}), SHEET)
    assert texts(found) == {4: code + "```", 5: "Answer 5."}
    found = match(filled({4: code + "```sql", 5: "Answer 5."}), SHEET)
    assert texts(found)[5] == "Answer 5."
    # With the other headings renamed nothing would end it: then it was no fence.
    found = match("### 4\n```\n### 5\nEvents.\n### 6\nps\n", SHEET)
    assert texts(found) == {4: "```", 5: "Events.", 6: "ps"}


def test_what_the_starter_says_is_no_answer():
    quoted = "> How does your loop spare the CPU, its own and PostgreSQL's,\n> when there is"
    rest = "nothing to do? What would\n> it cost without?"
    text = f"{heading(3)}\n\n{quoted} {rest}\n\n**Your answer:**\n\n---\n{heading(4)}\n> Push.\n"
    assert texts(match(text, SHEET)) == {4: "> Push."}
    text = text.replace("> ", "")
    assert texts(match(text, SHEET)) == {4: "Push."}
    assert texts(match(f"{heading(3)}\n{PLACEHOLDER} it waits\n", SHEET)) == {
        3: f"{PLACEHOLDER} it waits"
    }


def test_an_answer_in_the_heading_is_not_lost():
    chapter = "## Exercise 3b: I have used a lease"
    found = match(ALL.replace("## Exercise 3b", chapter), SHEET)
    assert texts(found)[7] == "Answer 7."
    assert loose(found) == chapter + "\n"
    assert match(STARTER.replace("## Exercise 3b", "# Exercise 3b:"), SHEET) == Matched()
    found = match("### 4. Push, because it is quick\n### 5. What carries the stop\n", SHEET)
    assert list(found.answers) == [4]
    assert found.answers[4][0].heading == "### 4. Push, because it is quick"


def test_nothing_that_a_student_writes_is_lost():
    marked = {n: f"word{n}a\n### word{n}b\n```\nword{n}c" for n in TITLES}
    for text in (
        filled(marked),
        filled(marked).replace("### ", "# "),
        filled(marked).replace("### ", ""),
        filled(marked).replace(". ", " - "),
        filled(marked).replace("### 4. Polling or push", "### Mine"),
    ):
        found = match(text, SHEET)
        everything = loose(found) + "".join(
            part.heading + part.text for parts in found.answers.values() for part in parts
        )
        for n in TITLES:
            assert all(f"word{n}{letter}" in everything for letter in "abc")


# Reading


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (ALL.encode(), ""),
        (codecs.BOM_UTF8 + ALL.replace("\n", "\r\n").encode(), ""),
        (ALL.replace("\n", "\r").encode(), ""),
        (ALL.encode("utf-16"), "UTF-16"),
        (ALL.replace("…", "").encode("utf-16-le"), "UTF-16"),
        (ALL.replace("…", "").encode("utf-16-be"), "UTF-16"),
        (ALL.replace("Answer 4.", "für „mich“").encode("cp1252"), "Windows-1252"),
    ],
)
def test_encodings_and_newlines(data, said, tmp_path):
    paper = read(student(tmp_path / "ada", data).folder)
    found = texts(match(paper.text, SHEET))
    assert sorted(found) == sorted(TITLES)
    assert found[4] in ("Answer 4.", "für „mich“")
    assert len(paper.remarks) == bool(said)
    assert said in "".join(paper.remarks)


def test_links_folders_and_pipes_are_not_opened(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(filled({1: "the secret"}))
    ada = tmp_path / "ada"
    ada.mkdir()
    path = ada / papers.NAME
    for make, word in [
        (lambda: path.symlink_to(secret), "a link"),
        (lambda: path.symlink_to("nowhere"), "a link"),
        (lambda: path.symlink_to("/dev/zero"), "a link"),
        (lambda: path.mkdir(), "a folder"),
        (lambda: os.mkfifo(path), "a pipe"),
    ]:
        make()
        paper = read(ada)
        assert paper.text == ""
        assert word in paper.remarks[0]
        paths = write(LAB, REFERENCE, [Answered("ada", "Ada", ada)], tmp_path / "out")
        for page in paths:
            assert "the secret" not in page.read_text(encoding="utf-8")
        page = Tags((tmp_path / "out" / "question-01.html").read_text(encoding="utf-8")).text
        assert word in page
        assert "No answer." in page
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_what_is_missing_unreadable_empty_or_no_text_is_said(tmp_path):
    ada = tmp_path / "ada"
    ada.mkdir()
    assert read(ada).remarks == ("There is no ANSWERS.md.",)
    assert "cannot be read" in read(tmp_path / "nobody").remarks[0]
    (ada / "ANSWERS.pdf").write_bytes(b"%PDF-1.7")
    assert "“ANSWERS.pdf”, which is not read" in read(ada).remarks[0]
    (ada / "Answers.md.txt").write_text(ALL)
    paper = read(ada)
    assert "“Answers.md.txt” was read" in paper.remarks[0]
    assert len(match(paper.text, SHEET).answers) == len(TITLES)
    for data, word in [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"PK\x03\x04" + b"word/document.xml" * 50, "not text"),
        (bytes(range(256)) * 100, "not text"),
    ]:
        (ada / papers.NAME).write_bytes(data)
        assert word in read(ada).remarks[0]
    (ada / papers.NAME).write_bytes(b"### 4\nnul \x00 here, and text around it\n" * 3)
    assert "nul \x00 here" in read(ada).text  # one odd character is no reason to throw it away


def test_a_long_file_is_cut_and_says_so(tmp_path):
    text = filled({1: "é" * (5 << 20) + "the end"})
    ada = student(tmp_path / "ada", text)
    paper = read(ada.folder)
    assert len(paper.text.encode()) <= MOST
    assert "\ufffd" not in paper.text
    assert "longer than 256 kB" in paper.remarks[0]
    write(LAB, REFERENCE, [ada], tmp_path / "out")
    page = (tmp_path / "out" / "question-01.html").read_text(encoding="utf-8")
    assert "longer than 256 kB" in page
    assert len(page.encode()) < 2 * MOST


def test_answers_are_kept_for_when_the_folder_has_gone(tmp_path):
    ada, to = tmp_path / "ada", tmp_path / "kept" / "ada"
    ada.mkdir()
    assert papers.keep(ada, to) == "There is no ANSWERS.md."
    (ada / "answers.md").write_text(ALL)
    assert papers.keep(ada, to) == "There is no ANSWERS.md; “answers.md” was read."
    assert read(to).text == ALL
    (ada / papers.NAME).symlink_to(ada / "answers.md")
    assert papers.keep(ada, to) == "ANSWERS.md is a link, which is not followed."
    assert not (to / papers.NAME).exists()
    (ada / papers.NAME).unlink()
    (ada / papers.NAME).write_bytes(b"x" * (5 << 20))
    assert papers.keep(ada, to) == ""
    assert (to / papers.NAME).stat().st_size == MOST + 1
    assert read(to) == read(ada)
    assert "cannot be read" in papers.keep(tmp_path / "nobody", to)
    assert list(to.iterdir()) == []


def test_hostile_files_do_not_take_long():
    # Each took, or would take, minutes with one careless expression: nothing here is timed, but
    # the tests would not end.
    for text in (
        "your answer" + " " * MOST + "x",
        "- " * (MOST // 2) + "x",
        "### " + "1 and " * (MOST // 6),
        "# x\n" * (MOST // 4),
        "**1. Polling**\n" * (MOST // 15),
        "\n".join("`" * (3 + i) for i in range(700)),
        "```\n~~~\n" * (MOST // 8),
    ):
        found = match(text, SHEET)
        parts = [part for each in [*found.answers.values(), found.loose] for part in each]
        assert sum(len(part.heading) + len(part.text) for part in parts) > 5 * MOST // 6


# The pages

HOSTILE = """\
<script>alert(1)</script><img src=http://example.com/x.png onerror=alert(1)>
</p></pre></div></article></main></textarea></style></title>--><!-- <![CDATA[ ]]>
![x](http://example.com/y.png) [link](javascript:alert(1)) <https://example.com>
<svg/onload=alert(1)> <iframe srcdoc="<script>1</script>"> &lt;b&gt; &#60;b&#62; <b
\x1b[31mred\x1b]0;title\x07 \u202eRTL\u2066 \x00 \ufffe nul
"quotes' id=s1 <a id=answers name=s1>
| a | b |
|---|---|
<form action=//example.com><input name=q>

    <object data=//example.com>

```html
<meta http-equiv=refresh content=0;url=//example.com>
```
"""
NAME = "</h3><script>x</script>\u202e\x1b[1m & \"Eve\" 'x'\n=1+1"
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "a", "header", "nav", "main", "section"),
    *("article", "p", "h1", "h2", "h3", "code", "span", "bdi", "div", "pre"),
    *("table", "thead", "tbody", "tr", "th", "td", "ul", "li"),
}


def test_nothing_of_a_student_is_a_tag_or_loads_anything(tmp_path):
    answers = filled({4: HOSTILE, 5: "fine"}) + "\n# <b>more</b>\n" + HOSTILE
    answers = HOSTILE + answers.replace(heading(6), "### <script>six</script>")
    eve = student(tmp_path / "eve", answers, NAME)
    plain = student(tmp_path / "ada", filled({4: "fine", 5: "fine"}) + "\nfine", "Ada")
    other = Answered("non", NAME, None, "It is </p><script> broken.")
    for n, who in enumerate(([eve, plain, other], [plain])):
        write(LAB, REFERENCE, who, tmp_path / str(n))
    for path in sorted((tmp_path / "0").glob("*.html")):
        source = path.read_text(encoding="utf-8")
        page = Tags(source)
        assert {tag for tag, _ in page.found} <= TAGS
        for tag, attributes in page.found:
            assert not [a for a in attributes if a.startswith("on") or a in ("src", "style")]
            if "href" in attributes:
                assert tag == "a"
                target = attributes["href"].split("#")[0]
                assert not target or (tmp_path / "0" / target).is_file()
        ids = [a["id"] for _, a in page.found if "id" in a]
        assert len(ids) == len(set(ids))
        assert not set("\x00\x1b\x07\u202e\u2066\ufffe") & set(source)
        assert "default-src 'none'" in page.found[3][1]["content"]
        assert page.found[3][1]["http-equiv"] == "Content-Security-Policy"
    four = Tags((tmp_path / "0" / "question-04.html").read_text(encoding="utf-8"))
    for line in HOSTILE.splitlines():
        if line.isprintable():
            assert line.strip() in four.text
    assert "\\x1b[31mred" in four.text
    assert "\\u202eRTL" in four.text
    aside = Tags((tmp_path / "0" / "not-matched.html").read_text(encoding="utf-8"))
    assert "<script>six</script>" in aside.text
    # The same tags as on the page of somebody harmless, and the one for code.
    harmless = Tags((tmp_path / "1" / "question-04.html").read_text(encoding="utf-8"))
    assert {t for t, _ in four.found} == {t for t, _ in harmless.found} | {"pre"}


def test_a_page_says_who_has_answered_and_who_has_not(tmp_path):
    students = [
        student(tmp_path / "zoe", filled({4: "Zoe's answer."}), "Zoë"),
        student(tmp_path / "arzu", STARTER, "Ärzu"),
        student(tmp_path / "dana", filled({4: "לדעתי"}), "דנה 🦊"),
        student(tmp_path / "bob", filled({4: "X"}).replace(heading(4), "### Mine"), "Bob"),
        Answered("carl", "Carl", None, "The archive is broken."),
    ]
    write(LAB, REFERENCE, students, tmp_path / "out")
    page = Tags((tmp_path / "out" / "question-04.html").read_text(encoding="utf-8"))
    order = [page.text.index(name) for name in ("Ärzu", "Bob", "Carl", "Zoë", "דנה 🦊")]
    assert order == sorted(order)
    assert "2 of 5" in page.text
    assert page.text.count("No answer.") == 3
    assert "The archive is broken." in page.text
    assert "Some of the file matches no question" in page.text
    index = Tags((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).text
    assert "4. Polling or push2 of 5" in index
    assert "1. Two workers at once0 of 5" in index
    assert "1 student has" in index
    aside = Tags((tmp_path / "out" / "not-matched.html").read_text(encoding="utf-8")).text
    assert "Bob" in aside
    assert "### Mine" in aside
    assert "Zoë" not in aside
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_a_note_is_shown_where_there_is_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    students = [
        Answered("a", "A", tmp_path / "empty", "The archive is broken."),
        Answered("b", "B", student(tmp_path / "full", ALL).folder, "It took too long."),
    ]
    write(LAB, REFERENCE, students, tmp_path / "out")
    page = Tags((tmp_path / "out" / "question-04.html").read_text(encoding="utf-8")).text
    assert "The archive is broken." in page
    assert papers.MISSING not in page
    assert "It took too long." not in page


def test_without_reference_answers_the_pages_say_so(tmp_path):
    paths = write(LAB, tmp_path / "none.md", [student(tmp_path / "a", ALL)], tmp_path / "out")
    assert "reference answers is not there" in paths[4].read_text(encoding="utf-8")
    assert "no reference answers" in paths[0].read_text(encoding="utf-8")
    (tmp_path / "some.md").write_text(filled({1: "Locks."}))
    paths = write(LAB, tmp_path / "some.md", [], tmp_path / "out")
    assert "Locks." in paths[1].read_text(encoding="utf-8")
    assert "has none to this question" in paths[4].read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(settings.SettingError, match=r"The answers cannot be written: .*\."):
        write(LAB, REFERENCE, [], tmp_path / "out")


def test_blocks_keep_code_and_join_what_was_wrapped():
    prose = "word " * 15
    text = (
        f"{prose.strip()}\n{prose.strip()}\nend.\n\n- an item that is long enough to be broken, as "
        "it was, at some column\n  or so\n- b\n\nshort\nlines\n\n| a | b |\n|---|---|\n\n```sql\n"
        "SELECT 1;\n\nSELECT 2;\n```\nafter\n\n    indented\n    code\n"
    )
    found = blocks(text)
    assert [kind for kind, _ in found] == ["text", "text", "text", "code", "code", "text", "code"]
    assert found[0][1] == prose + prose + "end."
    assert found[1][1].endswith("some column or so\n- b")
    assert found[2][1] == "short\nlines"
    assert found[4][1] == "```sql\nSELECT 1;\n\nSELECT 2;\n```"
    assert found[6][1] == "    indented\n    code"
    assert "".join("".join(b for _, b in found).split()) == "".join(text.split())


# The table of marks


def table(path: Path, delimiter: str = ",") -> list[list[str]]:
    text = path.read_bytes().decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


def test_the_table_has_a_row_for_each_student_and_a_column_for_each_question(tmp_path):
    who = [Answered("björn", "Björn, the 2nd", None), Answered("ada", "Ada", None)]
    path = write(LAB, REFERENCE, who, tmp_path)[-1]
    assert path == tmp_path / "marks.csv"
    assert path.read_bytes().startswith(codecs.BOM_UTF8)
    empty = [""] * 14
    assert table(path) == [
        ["student", "name", *(f"Q{n}" for n in range(1, 15))],
        ["ada", "Ada", *empty],
        ["björn", "Björn, the 2nd", *empty],
    ]


def test_marks_are_kept_on_a_second_run(tmp_path):
    ada, bob = Answered("ada", "Ada", None), Answered("bob", "Bob", None)
    path = write(LAB, REFERENCE, [ada], tmp_path)[-1]
    marked = path.read_text(encoding="utf-8-sig").replace("ada,Ada,", 'ada,Ada B.,2,"=1+1",')
    path.write_text(marked, encoding="utf-8")
    before = path.read_bytes()
    write(LAB, REFERENCE, [ada], tmp_path)
    assert path.read_bytes() == before  # nothing to add: not even written
    write(LAB, REFERENCE, [bob], tmp_path)
    rows = table(path)
    assert rows[1][:4] == ["ada", "Ada B.", "2", "=1+1"]
    assert rows[2][:3] == ["bob", "Bob", ""]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("encoding", "delimiter"), [("cp1252", ";"), ("utf-16", "\t"), ("utf-8-sig", ",")]
)
def test_marks_that_a_spreadsheet_has_saved_are_kept(encoding, delimiter, tmp_path):
    path = tmp_path / "marks.csv"
    rows = [["student", "Total", "name", "Q2", "Q1"], ["björn", "7", "Björn", "für", "3"], [""] * 5]
    text = "\r\n".join(delimiter.join(row) for row in rows) + "\r\n"
    path.write_bytes(text.encode(encoding))
    who = [Answered("björn", "Björn", None), Answered("ada", "Ada", None)]
    assert write(LAB, REFERENCE, who, tmp_path)[-1] == path
    new = table(path, delimiter)
    assert new[0] == [*rows[0], *(f"Q{n}" for n in range(3, 15))]
    assert new[1][:5] == rows[1]
    assert new[2][:5] == ["ada", "", "Ada", "", ""]
    assert {len(row) for row in new} == {17}


@pytest.mark.parametrize("data", [b"my notes\n", b'student,name\n"half', b"PK\x03\x04\x00", b""])
def test_a_table_that_cannot_be_read_is_left_alone(data, tmp_path):
    path = tmp_path / "marks.csv"
    path.write_bytes(data)
    for _ in range(2):
        paths = write(LAB, REFERENCE, [Answered("ada", "Ada", None)], tmp_path)
        assert path.read_bytes() == data
        assert paths[-1] == tmp_path / "marks-new.csv"
        assert [row[0] for row in table(paths[-1])] == ["student", "ada"]
        assert "left as it is" in paths[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "＝", "\r=", "\n="])
def test_no_cell_is_a_formula(start, tmp_path):
    name = f"{start}HYPERLINK(1)"
    path = write(LAB, REFERENCE, [Answered("x", name, None)], tmp_path)[-1]
    cell = table(path)[1][1]
    assert "HYPERLINK" in cell
    assert cell.lstrip()[0] not in "=+-@\t\r\n＝"
    assert guarded(name).lstrip()[0] not in "=+-@\t\r\n＝"
    assert guarded(name)[0] not in "\t\r\n"


def test_no_part_of_a_cell_is_a_formula_for_another_delimiter():
    assert guarded("a;=1+1") == "a;'=1+1"
    assert guarded("a, -1") == "a, '-1"
    assert guarded("Anna-Lena O'Neil") == "Anna-Lena O'Neil"
    assert guarded("") == ""
    assert pages.MOST_NAME <= 80
