"""A submission: its Procfile, its copy, its build and its environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.harness import submission as module
from graders.harness.keeper import Keeper
from graders.harness.submission import Submission, SubmissionError, base_env, parse_procfile

KIT_BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    with Keeper.start() as keeper:
        yield keeper


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my lab"
    path.mkdir()
    (path / "Procfile").write_text("worker: python -m worker\n")
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


def refused(path: Path, run_dir: Path) -> SubmissionError:
    with pytest.raises(SubmissionError) as caught:
        Submission.load(path, run_dir)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    return caught.value


class TestProcfile:
    def words(self, line: str, env: dict[str, str] | None = None) -> list[str]:
        procfile = parse_procfile(line, Path("Procfile"))
        return Submission(Path(), Path(), procfile).command("worker", env or {})

    def test_roles_comments_and_blank_lines(self) -> None:
        text = "\ufeff# a comment\r\n\r\n  worker :  python -m worker \r\nbuild: make\n#end"
        assert parse_procfile(text.removeprefix("\ufeff"), Path("Procfile")) == {
            "worker": ["python", "-m", "worker"],
            "build": ["make"],
        }

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("python -m worker", ["python", "-m", "worker"]),
            ("./run 'two words' \"and more\"", ["./run", "two words", "and more"]),
            ("echo $A ${A} x$A/y", ["echo", "one two", "one two", "xone two/y"]),
            ("echo \"$A\" '$A' \\$A \"\\$A\"", ["echo", "one two", "$A", "$A", "$A"]),
            ("echo $NONE \"$NONE\" '' end", ["echo", "", "end"]),
            ("echo ${NONE:-8000} ${A:-x} ${NONE:-}", ["echo", "8000", "one two"]),
            ("bash -c 'for x in 1; do echo $x \"$A\"; done'",
             ["bash", "-c", 'for x in 1; do echo $x "$A"; done']),
            ("echo $ $1 ${} a:b # c", ["echo", "$", "$1", "${}", "a:b", "#", "c"]),
            ("$PROGRAM run", ["prog", "run"]),
            ("env A=b python x.py", ["env", "A=b", "python", "x.py"]),
        ],
    )  # fmt: skip
    def test_words(self, command: str, words: list[str]) -> None:
        assert self.words(f"worker: {command}", {"A": "one two", "PROGRAM": "prog"}) == words

    def test_a_value_is_never_expanded_again(self) -> None:
        assert self.words("worker: echo $A", {"A": "$B '", "B": "x"}) == ["echo", "$B '"]

    @pytest.mark.parametrize(
        ("text", "code", "said"),
        [
            ("worker python", "procfile-bad-line", "line 1"),
            ("\n\nwork er: x", "procfile-bad-line", "line 3"),
            (": x", "procfile-bad-line", "line 1"),
            ("worker:", "procfile-empty-command", "line 1"),
            ("worker: ''", "procfile-empty-command", "line 1"),
            ("worker: echo 'x", "procfile-bad-quoting", "a quote is not closed"),
            ("worker: echo x\\", "procfile-bad-quoting", "escape"),
            ("worker: a\nweb: b", "procfile-unknown-role", "line 2: “web” is no role"),
            ("worker: a\nworker: b", "procfile-duplicate-role", "line 2"),
            ("worker: A=b python x", "procfile-needs-shell", "env A=b"),
            ("worker: make && ./worker", "procfile-needs-shell", "“&&”"),
            ("worker: ./worker > log", "procfile-needs-shell", "“>”"),
            ("worker: .venv/bin/python -m worker", "procfile-own-venv", "not copied"),
        ],
    )
    def test_each_mistake_names_its_line(self, text: str, code: str, said: str) -> None:
        with pytest.raises(SubmissionError) as caught:
            parse_procfile(text, Path("sub/Procfile"))
        assert caught.value.code == code
        assert said in str(caught.value)
        assert "sub/Procfile" in str(caught.value)

    def test_a_role_that_is_not_there(self, folder: Path, run_dir: Path) -> None:
        loaded = Submission.load(folder, run_dir)
        with pytest.raises(SubmissionError, match="no line for “api”") as caught:
            loaded.command("api", {})
        assert caught.value.code == "procfile-missing-role"

    def test_a_command_of_which_nothing_is_left(self) -> None:
        with pytest.raises(SubmissionError, match="nothing is left"):
            self.words("worker: $NONE")


class TestFolder:
    def test_missing(self, tmp_path: Path, run_dir: Path) -> None:
        assert refused(tmp_path / "no", run_dir).code == "submission-missing"

    def test_not_a_folder(self, folder: Path, run_dir: Path) -> None:
        assert refused(folder / "Procfile", run_dir).code == "submission-not-a-folder"

    def test_no_procfile(self, tmp_path: Path, run_dir: Path) -> None:
        assert refused(run_dir, run_dir).code == "procfile-missing"
        (tmp_path / "procfile.txt").write_text("worker: x")
        assert "“procfile.txt” is there" in str(refused(tmp_path, run_dir))

    def test_a_procfile_that_is_no_text(self, folder: Path, run_dir: Path) -> None:
        (folder / "Procfile").write_bytes(b"worker: \xff\xfe")
        assert refused(folder, run_dir).code == "procfile-unreadable"
        (folder / "Procfile").unlink()
        (folder / "Procfile").mkdir()
        assert refused(folder, run_dir).code == "procfile-unreadable"

    def test_a_procfile_that_is_no_file_or_has_no_end(self, folder: Path, run_dir: Path) -> None:
        path = folder / "Procfile"
        path.unlink()
        os.mkfifo(path)
        assert str(refused(folder, run_dir)).endswith("cannot be read: It is no ordinary file.")
        path.unlink()
        path.symlink_to("/dev/zero")
        assert str(refused(folder, run_dir)).endswith("cannot be read: It is no ordinary file.")
        path.unlink()
        path.symlink_to("its.procfile")
        (folder / "its.procfile").write_text("worker: x\n" + "# \u00e4\n" * 20_000)
        assert str(refused(folder, run_dir)).endswith("is longer than 64 kB.")
        (folder / "its.procfile").write_text("worker: x\n")
        assert module.read_procfile(folder) == {"worker": ["x"]}

    def test_too_large(self, folder: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with (folder / "data.bin").open("wb") as file:
            file.truncate(module.MAX_BYTES + 1)
        error = refused(folder, run_dir)
        assert error.code == "submission-too-large"
        assert "data.bin" in str(error)
        (folder / "data.bin").unlink()
        monkeypatch.setattr(module, "MAX_FILES", 3)
        for n in range(3):
            (folder / f"{n}").touch()
        assert "more than 3 files" in str(refused(folder, run_dir))

    def test_the_copy(self, folder: Path, run_dir: Path) -> None:
        (folder / "worker").mkdir()
        (folder / "worker" / "__main__.py").write_text("x")
        (folder / "empty").mkdir()
        run = folder / "run.sh"
        run.write_text("#!/bin/sh\n")
        run.chmod(0o755)
        for name in (".git", ".venv", "__pycache__", "node_modules"):
            (folder / name).mkdir()
            (folder / name / "file").touch()
        (folder / "inside").symlink_to("worker/__main__.py")
        (folder / "absolute").symlink_to(folder / "worker")
        (folder / "outside").symlink_to("/etc/passwd")
        (folder / "up").symlink_to("../..")
        (folder / "loop").symlink_to("loop")
        (folder / "dangling").symlink_to("not-there")
        os.mkfifo(folder / "pipe")

        loaded = Submission.load(folder, run_dir)
        copy = loaded.copy
        assert copy.parent == run_dir
        assert sorted(p.name for p in copy.iterdir()) == [
            "Procfile", "absolute", "dangling", "empty", "inside", "loop", "node_modules",
            "run.sh", "worker",
        ]  # fmt: skip
        assert (copy / "node_modules" / "file").exists()
        assert os.access(copy / "run.sh", os.X_OK)
        assert (copy / "inside").read_text() == "x"
        assert (copy / "absolute").resolve() == (copy / "worker").resolve(), "not the original"
        assert sorted(note.split()[0] for note in loaded.notes) == ["outside", "pipe", "up"]
        shutil.rmtree(folder)
        assert (copy / "absolute" / "__main__.py").read_text() == "x"

    def test_a_run_folder_inside_is_not_copied_into_itself(self, folder: Path) -> None:
        run_dir = folder / "run"
        run_dir.mkdir()
        loaded = Submission.load(folder, run_dir)
        assert [p.name for p in loaded.copy.iterdir()] == ["Procfile"]

    def test_the_original_is_left_as_it_was(self, folder: Path, run_dir: Path) -> None:
        before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))
        first, second = Submission.load(folder, run_dir), Submission.load(folder, run_dir)
        assert first.copy != second.copy
        (first.copy / "new").touch()
        assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before


class TestBuild:
    def build(self, folder: Path, run_dir: Path, keeper: Keeper, line: str, **more: float) -> list:
        (folder / "Procfile").write_text(f"build: {line}\nworker: x\n")
        loaded = Submission.load(folder, run_dir)
        return loaded.build(keeper, base_env(KIT_BIN, run_dir), **more)

    def test_runs_in_the_copy(self, folder: Path, run_dir: Path, keeper: Keeper) -> None:
        said = self.build(
            folder, run_dir, keeper, "sh -c 'echo built > made; echo $PWD; echo e >&2'"
        )
        assert said == [str(run_dir / folder.name), "e"]
        assert (run_dir / folder.name / "made").exists()
        assert not (folder / "made").exists()

    def test_none_is_fine(self, folder: Path, run_dir: Path, keeper: Keeper) -> None:
        assert Submission.load(folder, run_dir).build(keeper, {}) == []

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("sh -c 'echo oh no; exit 3'", "ended with exit status 3. Its last lines: oh no"),
            ("sh -c 'kill -9 $$'", "was ended by SIGKILL. It printed nothing"),
            ("no-such-tool", "no program “no-such-tool”"),
        ],
    )
    def test_failures(
        self, folder: Path, run_dir: Path, keeper: Keeper, line: str, said: str
    ) -> None:
        with pytest.raises(SubmissionError) as caught:
            self.build(folder, run_dir, keeper, line)
        assert caught.value.code == "build-failed"
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        "line", ["sleep 600", "sh -c 'yes'", "sh -c 'exec >&- 2>&-; sleep 600'"]
    )
    def test_one_that_does_not_end(
        self, folder: Path, run_dir: Path, keeper: Keeper, line: str
    ) -> None:
        with pytest.raises(SubmissionError, match="still running after 0 s"):
            self.build(folder, run_dir, keeper, line, timeout=0.3)

    def test_one_that_leaves_something_running(
        self, folder: Path, run_dir: Path, keeper: Keeper
    ) -> None:
        """It holds the build's output open, and must not hold up the grader."""
        began = time.monotonic()
        assert self.build(folder, run_dir, keeper, "sh -c 'sleep 600 & echo done'") == ["done"]
        assert time.monotonic() - began < 60


class TestEnvironment:
    def test_is_an_allowlist(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("PGHOST", "PGPASSWORD", "PYTHONPATH", "PYTHONUNBUFFERED", "DATABASE_URL",
                     "SECRET_TOKEN", "VIRTUAL_ENV", "http_proxy"):  # fmt: skip
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("LC_ALL", "C.UTF-8")
        monkeypatch.setenv("TZ", "Europe/Oslo")
        env = base_env(KIT_BIN, run_dir)
        assert set(env) <= module.ALLOWED | {"LC_ALL", "LC_CTYPE", "TMPDIR", "NO_PROXY", "no_proxy",
                                             "PGGSSENCMODE"}  # fmt: skip
        assert env["NO_PROXY"] == env["no_proxy"] == "*"
        assert env["PGGSSENCMODE"] == "disable"
        assert (env["LC_ALL"], env["TZ"]) == ("C.UTF-8", "Europe/Oslo")
        assert Path(env["TMPDIR"]).is_dir()
        assert Path(env["TMPDIR"]).is_relative_to(run_dir)

    def test_python_is_the_kits_own(self, run_dir: Path) -> None:
        env = base_env(KIT_BIN, run_dir)
        for name in ("python", "python3"):
            code = "import sys; print(sys.prefix)"
            said = subprocess.run([name, "-c", code], env=env, capture_output=True, text=True)
            assert said.stdout.strip() == sys.prefix

    def test_python_is_there_even_if_the_kits_has_another_name(
        self, tmp_path: Path, run_dir: Path
    ) -> None:
        env = base_env(tmp_path, run_dir)
        for name in ("python", "python3"):
            found = shutil.which(name, path=env["PATH"])
            assert Path(found).resolve() == Path(sys.executable).resolve()
