"""`make student-kit`: it grades as this project does, and tells no answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.classes import kit as kits
from graders.harness import hints, settings
from graders.harness import version as versions
from graders.harness.reset import files_of, original_of
from graders.harness.settings import ROOT, SettingError
from graders.harness.version import STAMP, fingerprint, version

LABS = settings.labs()
SHORTEST_LINE = 30  # characters; shorter ones are `return None`, or what every program has
SHORTEST_SENTENCE = 40

# Lines of the solutions that students are shown on purpose, and where.
SHOWN = {
    # The kit's own API of lab 03 answers two of lab 02's requests, in other ways.
    'SELECT = "SELECT * FROM tasks WHERE id = %s"': {"graders/lab03/api/api.py"},
    "INSERT INTO tasks (title, description, type, priority)": {"graders/lab03/api/api.py"},
    # What every program on psycopg has.
    "except psycopg.OperationalError as error:": {
        "graders/harness/lab.py", "graders/lab03/api/api.py", "notebooks/lab02.ipynb",
    },
    # The field that identifies a job, copied.
    '"subtask_id": job["subtask_id"],': {"graders/notebook/exercises.py", "notebooks/lab01.ipynb"},
    # Single calls and forms that a handout gives, where it explains a library or Docker.
    "@app.exception_handler(RedisError)": {"labs/lab01/README.md"},
    "def redis_is_away(request: Request, error: RedisError) -> JSONResponse:": {
        "labs/lab01/README.md",
    },
    'CMD ["python", "-m", "worker"]': {"labs/lab01/README.md"},
    "COPY requirements.txt wheel[s] /wheels/": {"labs/lab01/README.md"},
    '@model_validator(mode="after")': {"labs/lab02/README.md"},
    "WHERE %(status)s::text IS NULL OR status = %(status)s": {"labs/lab02/README.md"},
    "ORDER BY created_at DESC, id DESC": {"labs/lab02/README.md", "notebooks/lab02.ipynb"},
    "async with self.pool.connection() as connection:": {"labs/lab02/README.md"},
    "async with self.pool.connection() as connection, connection.transaction():": {
        "labs/lab02/README.md",
    },
    "connection.execute(path.read_bytes())": {"labs/lab02/README.md"},
    "with connection.transaction():": {"labs/lab03/README.md"},
    "with self.pool.connection() as connection:": {"labs/lab02/README.md", "labs/lab03/README.md"},
    # The walkthrough of lab 03 goes from a worker without a lock to one that recovers, in SQL.
    "UPDATE tasks SET status = 'processing', assigned_worker = %s, updated_at = now()": {
        "notebooks/lab03.ipynb",
    },
    "UPDATE tasks SET status = 'pending', assigned_worker = NULL, updated_at = now()": {
        "notebooks/lab03.ipynb",
    },
    "WHERE status = 'processing' AND updated_at < now() - make_interval(secs => %s)": {
        "notebooks/lab03.ipynb",
    },
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the student kit of this project, and its zip."""
    folder = tmp_path_factory.mktemp("kit") / "class of 2026"
    assert kits.main({"OUT": str(folder)}) == 0
    return folder


@pytest.fixture(scope="module")
def kit(out: Path) -> Path:
    """The kit's folder, which no test changes."""
    return out / kits.NAME


def tree(folder: Path) -> dict[str, bytes]:
    """Every file in a folder: its path inside -> its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


# No answers


def squeezed(text: str) -> str:
    """One space for all white space, and strings that stand side by side as one."""
    return " ".join(re.sub(r'"\s*\n\s*"', "", text).split())


def texts_in(told: object) -> Iterator[str]:
    """All texts in JSON; a list of texts is one, as notebooks keep their cells."""
    if isinstance(told, str):
        yield told
    elif isinstance(told, list) and told and all(isinstance(each, str) for each in told):
        yield "".join(told)
    elif isinstance(told, list | dict):
        for each in told.values() if isinstance(told, dict) else told:
            yield from texts_in(each)


def readable(path: Path) -> str:
    """What somebody reads who opens this file, squeezed."""
    text = path.read_bytes().decode("utf-8")  # a kit is all text
    if path.suffix in (".ipynb", ".json"):
        return squeezed("\n".join(texts_in(json.loads(text))))
    return squeezed(text)


def given() -> str:
    """What every student has from the beginning: starters, and the schema."""
    starters = [text for lab in LABS for text in original_of(lab).values()]
    return squeezed("\n".join([*starters, *(lab.schema_sql for lab in LABS)]))


def secret_lines() -> set[str]:
    """Lines of the solutions' code that tell something, and no student has been given."""
    known, found = given(), set()
    for lab in LABS:
        for name, text in files_of(ROOT / "solutions" / lab.name).items():
            if not name.endswith(".md"):
                found |= {squeezed(line) for line in text.splitlines()}
    return {
        line for line in found
        if len(line) >= SHORTEST_LINE and line not in known
        and not re.match(r"(from \S+ )?import ", line)
    }  # fmt: skip


def secret_sentences() -> set[str]:
    """Sentences of the answers to the questions, which are quoted in between."""
    known, found = given(), set()
    for path in (ROOT / "solutions").glob("lab*/*.md"):
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join("\n" if line.startswith(("> ", "#")) else line for line in lines)
        for paragraph in re.split(r"\n\s*\n", text):
            found |= set(re.split(r"(?<=[.!?:]) ", squeezed(paragraph)))
    return {
        sentence for sentence in found
        if len(sentence) >= SHORTEST_SENTENCE and sentence not in known
    }  # fmt: skip


def last_hints(text: str) -> str:
    """The third hint of each check, which is nearly the answer and meant to be."""
    return "\n".join(levels[-1] for levels in hints.parse(text).values())


def told_lines(folder: Path) -> set[tuple[str, str]]:
    """(line of a solution, file of the kit that has it), save for last hints."""
    secrets, found = secret_lines(), set()
    for name in tree(folder):
        text = readable(folder / name)
        if name.endswith("hints.md"):
            whole = (folder / name).read_text(encoding="utf-8")
            first = [hint for levels in hints.parse(whole).values() for hint in levels[:-1]]
            text = squeezed("\n".join(first))
        found |= {(line, name) for line in secrets if line in text}
    return found


def told_sentences(folder: Path) -> set[tuple[str, str]]:
    """(sentence of an answer, file of the kit that has it)."""
    secrets, found = secret_sentences(), set()
    for name in tree(folder):
        text = readable(folder / name)
        found |= {(sentence, name) for sentence in secrets if sentence in text}
    return found


def test_no_line_of_a_solution_is_in_the_kit(kit: Path) -> None:
    assert len(secret_lines()) > 200
    allowed = {(line, name) for line, names in SHOWN.items() for name in names}
    told = told_lines(kit)
    assert told - allowed == set()
    assert allowed - told == set(), "no longer shown: take it off the list"


def test_no_answer_to_a_question_is_in_the_kit(kit: Path) -> None:
    assert len(secret_sentences()) > 150
    assert told_sentences(kit) == set()


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_the_last_hints_are_no_solution(kit: Path, lab: settings.Lab) -> None:
    """Nearly the answer, check by check: what holds a program together is left to write."""
    hinted = squeezed(last_hints((kit / "labs" / lab.name / "hints.md").read_text("utf-8")))
    code = squeezed("\n".join(
        text for name, text in files_of(ROOT / "solutions" / lab.name).items() if name[-3:] != ".md"
    ))
    secrets = [line for line in secret_lines() if line in code]
    assert len(secrets) > 30
    assert sum(line in hinted for line in secrets) < len(secrets) / 2


def test_the_search_finds_what_hides_in_a_notebook_or_in_json(kit: Path, tmp_path: Path) -> None:
    line = sorted(secret_lines() - SHOWN.keys())[-1]
    sentence = sorted(secret_sentences())[-1]
    words = line.split(" ")
    (tmp_path / "a.ipynb").write_text(json.dumps(
        {"cells": [{"source": ["x = 1\n", "  " + "   ".join(words[:1]), " ", " ".join(words[1:])]}]}
    ))
    (tmp_path / "b.json").write_text(json.dumps({"worker/loop.py": f"a\n\t{line}\nb\n"}))
    (tmp_path / "c.md").write_text(f"So it is: {sentence.replace(' ', chr(10), 1)}\n")
    assert told_lines(tmp_path) == {(line, "a.ipynb"), (line, "b.json")}
    assert told_sentences(tmp_path) == {(sentence, "c.md")}


def test_what_proves_the_graders_and_is_for_instructors_stays_out(kit: Path) -> None:
    names = tree(kit)
    assert {name.split("/")[0] for name in names} == {
        "Makefile", "README.md", "LICENSE", "pyproject.toml", ".gitignore", "labs", "starter",
        "notebooks", "graders",
    }  # fmt: skip
    inside = {name.split("/")[1] for name in names if name.startswith("graders/")}
    assert inside == {"KIT", "__init__.py", "constraints.txt", "setup.sh", "harness", "notebook",
                      *(lab.name for lab in LABS)}  # fmt: skip
    for name in names:
        assert not re.search(r"mutants|variants|solutions|/tests/|classes|prove", name)
        assert not re.search(r"harness/bench|__pycache__|\.pyc$|checkpoints|results\.json", name)
    for lab in LABS:
        for room in ("labs", "graders", "starter"):
            assert (kit / room / lab.name).is_dir()
        assert (kit / "notebooks" / f"{lab.name}.ipynb").is_file()


def test_it_names_nothing_that_it_has_not(kit: Path) -> None:
    """No page tells a student to look at, or to run, what only the whole project has."""
    absent = re.compile(
        r"solutions/|ARCHITECTURE|INSTRUCTORS|DESIGN\.md|mutants\.toml|\.ci/|"
        r"make (?:test(?!-setup)|lint|prove|bench|grade-all|student-kit|wheels)"
    )
    for name in tree(kit):
        if name.startswith(("labs/", "starter/", "notebooks/")) or "/" not in name:
            assert absent.findall(readable(kit / name)) == [], name
    helped = subprocess.run(["make", "-s", "help"], cwd=kit, capture_output=True, text=True,
                            timeout=60, check=True)  # fmt: skip
    assert "make grade LAB=03" in helped.stdout
    assert absent.findall(helped.stdout) == []


def test_the_pages_in_it_are_whole(kit: Path) -> None:
    assert kits.NOT_FOR_STUDENTS in (ROOT / "README.md").read_text(encoding="utf-8")
    page = (kit / "README.md").read_text(encoding="utf-8")
    assert kits.NOT_FOR_STUDENTS not in page
    # Paragraphs, tables and lists go on where a line was cut out.
    assert "edit `starter/lab03`, and grade again.\nThis is what a failing check says" in page
    assert re.search(r"\| `make labs`.*\|\n\n`LAB=3` means", page)
    assert "## Further\n\n- `LICENSE`: MIT.\n" in page
    for path in kit.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
            assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"


# The same kit


def test_it_grades_as_this_project_does_and_says_so(kit: Path, tmp_path: Path) -> None:
    stamped = (kit / STAMP).read_text(encoding="utf-8").strip()
    assert stamped == version(ROOT)
    assert fingerprint(kit) == fingerprint(ROOT)
    assert version(kit) == stamped
    for name, text in {"graders/lab03/test_3a.py": "# mine\n", "labs/lab03/lab.toml": "# mine\n",
                       "graders/lab03/more.py": ""}.items():  # fmt: skip
        changed = tmp_path / Path(name).name
        shutil.copytree(kit, changed)
        with (changed / name).open("a", encoding="utf-8") as file:
            file.write(text)
        assert version(changed).endswith(" (changed)")


def test_its_starters_are_as_they_came(kit: Path) -> None:
    for lab in LABS:
        assert files_of(kit / "starter" / lab.name) == original_of(lab)


def test_the_same_kit_is_the_same_zip(out: Path, kit: Path, tmp_path: Path) -> None:
    (packed,) = out.glob("*.zip")
    assert re.fullmatch(r"worker-labs-[\d.]+-[0-9a-f]{12}\.zip", packed.name)
    again = tmp_path / "again"
    umask = os.umask(0o077)
    try:
        assert kits.main({"OUT": str(again)}) == 0
    finally:
        os.umask(umask)
    assert (again / packed.name).read_bytes() == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "opened")
        modes = {info.external_attr >> 16 & 0o777 for info in archive.infolist()}
        dates = {info.date_time for info in archive.infolist()}
    assert modes <= {0o644, 0o755}
    assert dates == {(1980, 1, 1, 0, 0, 0)}
    assert [path.name for path in (tmp_path / "opened").iterdir()] == [kits.NAME]
    assert tree(tmp_path / "opened" / kits.NAME) == tree(kit)


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments], cwd=folder,
        capture_output=True, text=True, timeout=60, check=True,
        env={n: v for n, v in os.environ.items() if not n.startswith("GIT_")},
    ).stdout  # fmt: skip


@needs_git
def test_a_clone_of_it_has_all_of_it(kit: Path, tmp_path: Path) -> None:
    shutil.copytree(kit, tmp_path / "there")
    git(tmp_path / "there", "init", "-q")
    git(tmp_path / "there", "add", ".")
    git(tmp_path / "there", "commit", "-q", "-m", "the kit")
    git(tmp_path, "clone", "-q", "there", "here")
    shutil.rmtree(tmp_path / "here" / ".git")
    assert tree(tmp_path / "here") == tree(kit)


# What is taken, from a small project


LAB = {
    "labs/lab03/lab.toml": 'title = "A lab"\n',
    "labs/lab03/README.md": "one\ntwo <!-- not for students -->\nthree\n",
    "graders/lab03/starter.json": json.dumps({"Procfile": "worker: x\n", "worker/a.py": ""}),
    "graders/lab03/test_3a.py": "",
    "graders/lab03/mutants.toml": "",
    "graders/lab03/variants/one/Procfile": "",
    "graders/harness/cli.py": "",
    "graders/harness/prove.py": "",
    "graders/classes/kit.py": "",
    "graders/constraints.txt": "",
    "notebooks/lab03.ipynb": "{}",
    "Makefile": "all:\n",
    "README.md": "hello\n",
    ".gitignore": "/dist/\n/.wheelhouse/\n",
    "solutions/lab03/a.py": "",
    "starter/lab03/worker/a.py": "what an instructor has tried\n",
    "notes.txt": "",
}
IN_KIT = {
    "labs/lab03/lab.toml", "labs/lab03/README.md", "graders/lab03/starter.json",
    "graders/lab03/test_3a.py", "graders/harness/cli.py", "graders/constraints.txt",
    "notebooks/lab03.ipynb", "Makefile", "README.md", ".gitignore", "graders/KIT",
    "starter/lab03/Procfile", "starter/lab03/worker/a.py",
}  # fmt: skip
JUNK = ("labs/lab03/.DS_Store", "labs/lab03/README.md~", "graders/lab03/__pycache__/x.cpython.pyc",
        "notebooks/.ipynb_checkpoints/lab03-checkpoint.ipynb", "labs/lab03/.README.md.swp")


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(LAB.get(name, "x"), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one small lab, in a folder of its own."""
    root = tmp_path / "a project"
    put(root, *LAB)
    monkeypatch.setattr(settings, "ROOT", root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def checkout(project: Path) -> Path:
    """The same, known to git."""
    git(project, "init", "-q")
    git(project, "add", ".")
    return project


def made(root: Path) -> Path:
    return root / "dist" / kits.NAME


def test_only_what_is_listed_is_taken(project: Path) -> None:
    put(project, *(name for name in JUNK if "lab03/" not in name or "labs/" in name))
    assert kits.main({}) == 0
    assert set(tree(made(project))) == IN_KIT
    assert (made(project) / "labs/lab03/README.md").read_text() == "one\nthree\n"
    assert (made(project) / "starter/lab03/worker/a.py").read_text() == ""
    assert (project / "starter/lab03/worker/a.py").read_text() == LAB["starter/lab03/worker/a.py"]


@needs_git
def test_what_git_does_not_know_stays_out_and_is_named(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(checkout, "labs/lab03/answers.md", "notebooks/mine.ipynb",
        "solutions/lab03/b.py", "graders/lab03/__pycache__/x.pyc")  # fmt: skip
    assert kits.main({}) == 0
    assert set(tree(made(checkout))) == IN_KIT
    said = capsys.readouterr().out
    assert "Left out, since git does not know it: labs/lab03/answers.md, notebooks/mine.ipynb." in (
        said
    )


@needs_git
def test_a_grader_that_git_does_not_know_is_refused(checkout: Path) -> None:
    """The kit would say that it grades as this project does, and would not."""
    put(checkout, "graders/harness/new.py")
    with pytest.raises(SettingError, match=r"graders/harness/new.py would not be in it\. Add that"):
        kits.main({})
    assert list((checkout / "dist").iterdir()) == []
    git(checkout, "add", ".")
    put(checkout, "labs/lab04/lab.toml")
    with pytest.raises(SettingError, match=r"labs/lab04/lab.toml would not be in it\. Add that"):
        kits.main({})
    (checkout / "labs/lab04/lab.toml").unlink()
    (checkout / "README.md").unlink()
    with pytest.raises(SettingError, match=r"README.md is in git and not in this folder"):
        kits.main({})


@needs_git
def test_where_git_cannot_be_asked_it_says_so(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / ".git" / "HEAD").write_text("nonsense")
    assert kits.main({}) == 0
    assert set(tree(made(checkout))) == IN_KIT
    assert "Git does not say what belongs to the project (" in capsys.readouterr().out


@needs_git
def test_a_link_is_refused(checkout: Path) -> None:
    """It might lead to what students are not to have, or to nowhere on their machine."""
    (checkout / "labs" / "lab03" / "README.md").unlink()
    (checkout / "labs" / "lab03" / "README.md").symlink_to("/etc/hostname")
    with pytest.raises(SettingError, match=r"README\.md is a link, which a student kit"):
        kits.main({})


# Where it is written


def test_a_second_run_replaces_both(project: Path) -> None:
    assert kits.main({"OUT": "dist"}) == 0
    (first,) = (project / "dist").glob("*.zip")
    put(made(project), "reports/lab03/results.json")
    (project / "graders" / "lab03" / "test_3a.py").write_text("x = 1\n")
    versions.version.cache_clear()  # as in a new process
    assert kits.main({"OUT": "dist"}) == 0
    assert set(tree(made(project))) == IN_KIT
    (second,) = (project / "dist").glob("*.zip")
    assert first.name != second.name
    assert sorted(path.name for path in (project / "dist").iterdir()) == [made(project).name,
                                                                         second.name]  # fmt: skip


@pytest.mark.parametrize(("path", "why"), [
    ("notes.txt", "is no student kit, so it is not replaced"),
    ("graders/other", "is no student kit, so it is not replaced"),
])
def test_somebodys_folder_is_not_replaced(project: Path, path: str, why: str) -> None:
    put(made(project), path)
    with pytest.raises(SettingError, match=why):
        kits.main({"OUT": "dist"})
    assert set(tree(project / "dist")) == {f"{kits.NAME}/{path}"}


@pytest.mark.parametrize(("path", "why"), [
    (".git/HEAD", "has become a git repository, whose history would be lost"),
    (".worker-labs/servers.json", "run make down there first"),
    ("starter/lab03/worker/b.py", "Somebody has worked on .*starter/lab03, which would be lost"),
    ("starter/lab03.before-reset-1/a.py", "Somebody has worked on .*before-reset-1, which would"),
])
def test_a_kit_that_is_in_use_is_not_replaced(project: Path, path: str, why: str) -> None:
    assert kits.main({"OUT": "dist"}) == 0
    put(made(project), path)
    before = tree(project / "dist")
    with pytest.raises(SettingError, match=why):
        kits.main({"OUT": "dist"})
    assert tree(project / "dist") == before


def test_a_link_to_a_kit_is_not_replaced(project: Path, tmp_path: Path) -> None:
    assert kits.main({"OUT": str(tmp_path / "elsewhere")}) == 0
    (project / "dist").mkdir()
    made(project).symlink_to(tmp_path / "elsewhere" / kits.NAME)
    with pytest.raises(SettingError, match="is no student kit"):
        kits.main({"OUT": "dist"})
    assert (tmp_path / "elsewhere" / kits.NAME / "Makefile").is_file()


@pytest.mark.parametrize(("name", "why"), [
    ("notes.txt", "OUT=notes.txt is a file; name a folder."),
    ("notes.txt/below", "The kit cannot be written: Not a directory"),
    ("labs/out", "OUT=labs/out lies in the kit's own labs/; name another folder."),
    ("graders/lab03/../..//graders", "lies in the kit's own graders/"),
    ("~nobody-here/x", "names a user who is not here"),
    ("x" * 300, "The kit cannot be written: File name too long"),
])
def test_where_it_cannot_be_written_one_sentence_says_so(
    project: Path, name: str, why: str
) -> None:
    before = tree(project)
    with pytest.raises(SettingError) as refused:
        kits.main({"OUT": name})
    assert why in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert tree(project) == before


def test_what_goes_wrong_half_way_leaves_the_old_kit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kits.main({"OUT": "dist"}) == 0
    before = tree(project / "dist")
    for stopped in (KeyboardInterrupt, OSError(28, "No space left on device")):
        def fail(*_: object, stopped: BaseException | type[BaseException] = stopped) -> None:
            raise stopped
        monkeypatch.setattr(kits, "pack", fail)
        with pytest.raises((KeyboardInterrupt, SettingError)):
            kits.main({"OUT": "dist"})
        assert tree(project / "dist") == before


def test_the_old_kit_comes_back_if_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    put(tmp_path, "old/x")
    with pytest.raises(OSError, match="No such file"):
        kits._swap(tmp_path / "none", tmp_path / "old", tmp_path / "aside")
    assert set(tree(tmp_path)) == {"old/x"}


def test_the_fetched_packages_go_in_when_asked_for(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingError, match="run make wheels first"):
        kits.main({"WHEELS": "1"})
    assert not (project / "dist").exists()
    with pytest.raises(SettingError, match="WHEELS=perhaps is not known"):
        kits.main({"WHEELS": "perhaps"})
    put(project, ".wheelhouse/linux/a-1.whl", ".wheelhouse/b-2.tar.gz", ".wheelhouse/.DS_Store")
    assert kits.main({"WHEELS": "0"}) == 0
    assert set(tree(made(project))) == IN_KIT
    assert kits.main({"WHEELS": "1"}) == 0
    wheels = {".wheelhouse/linux/a-1.whl", ".wheelhouse/b-2.tar.gz"}
    assert set(tree(made(project))) == IN_KIT | wheels
    (packed,) = (project / "dist").glob("*.zip")
    with zipfile.ZipFile(packed) as archive:
        assert {f"{kits.NAME}/{name}" for name in wheels} < set(archive.namelist())
    assert "the zip has the packages, a repository has not" in capsys.readouterr().out


def test_the_notebooks_are_left_out_where_they_are_not_wanted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(project, "notebooks/lab03.ipynb", "notebooks/README.md")
    (project / "README.md").write_text(
        "# Kit\n| `make notebook LAB=03` | x |\n## The notebooks\nThere are three.\n\n"
        "## More\nhere\n"
    )
    assert kits.main({}) == 0
    whole = set(tree(made(project)))
    assert kits.main({"NOTEBOOKS": "no"}) == 0
    assert whole - set(tree(made(project))) == {"notebooks/lab03.ipynb", "notebooks/README.md"}
    assert (made(project) / "README.md").read_text() == "# Kit\n## More\nhere\n"
    real = ROOT / "README.md"
    (project / "README.md").write_text(real.read_text(encoding="utf-8"), encoding="utf-8")
    assert kits.main({"NOTEBOOKS": "no"}) == 0
    page = (made(project) / "README.md").read_text(encoding="utf-8")
    assert "notebook" not in page.lower()
    assert page.count("\n## ") == real.read_text(encoding="utf-8").count("\n## ") - 1
    with pytest.raises(SettingError, match="NOTEBOOKS=perhaps is not known"):
        kits.main({"NOTEBOOKS": "perhaps"})


# Used


def command(kit: Path, name: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command of this kit, by the tests' own Python: what lies in the folder comes first."""
    steer = {"LAB", "SRC", "CHECK", "STEP", "API", "RUNS", "PYTHONPATH", "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, "-m", "graders.harness.cli", name], cwd=kit, stdin=subprocess.DEVNULL,
        env={**{n: v for n, v in os.environ.items() if n not in steer}, **env},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture
def fresh(out: Path, tmp_path: Path) -> Path:
    """What a student has who has unpacked the zip."""
    (packed,) = out.glob("*.zip")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    return tmp_path / kits.NAME


def test_what_needs_no_server_works_in_it(fresh: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import graders; print(graders.__file__)"], cwd=fresh,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()) == (fresh / "graders" / "__init__.py").resolve()
    listed = command(fresh, "labs")
    assert listed.returncode == 0
    assert all(lab.title in listed.stdout for lab in LABS)
    hint = command(fresh, "hint", LAB="03", CHECK="completes_a_pending_task")
    assert hint.returncode == 0, hint.stderr
    assert "Hint 1 of 3 for completes_a_pending_task" in hint.stdout
    (fresh / "starter" / "lab03" / "work.py").write_text("mine")
    assert command(fresh, "reset", LAB="03").returncode == 0
    assert files_of(fresh / "starter" / "lab03") == original_of(settings.lab("03"))
    for absent in ("student-kit", "prove", "bench-grader", "grade-all", "wheels"):
        done = command(fresh, absent)
        assert done.returncode == 2
        assert done.stderr == f"This kit has no command {absent}.\n"


@pytest.mark.proof
def test_it_grades(fresh: Path) -> None:
    done = command(
        fresh, "grade", LAB="03", CHECK="completes_a_pending_task", SERVICES="embedded",
        SRC=str(ROOT / "solutions" / "lab03"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    # Written into the kit's own reports: by its graders, not by this project's.
    told = json.loads((fresh / "reports" / "lab03" / "results.json").read_text(encoding="utf-8"))
    assert told["kit_version"] == (fresh / STAMP).read_text(encoding="utf-8").strip()
    assert told["kit_version"] == version(ROOT)
    assert {check["verdict"] for check in told["checks"]} == {"passed"}
    assert "completes_a_pending_task" in {check["name"] for check in told["checks"]}
