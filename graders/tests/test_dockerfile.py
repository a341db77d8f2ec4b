"""What lab 01 reads out of a Dockerfile, a .dockerignore and a list of packages."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from graders.harness.check import Finding
from graders.lab01 import brought
from graders.lab01 import test_1c as checks
from graders.lab01.commands import installs
from graders.lab01.context import Context
from graders.lab01.dockerfile import Dockerfile, DockerfileError, Instruction, expand
from graders.lab01.ignore import Ignore
from graders.lab01.image import labelled, needed_images, needs_buildkit
from graders.lab01.pins import is_exact, unpinned
from graders.lab01.reading import Recipe
from graders.lab01.signals import started

# Reading


def test_continued_lines_comments_and_blank_lines_make_one_instruction():
    file = Dockerfile.read("FROM a\nRUN one && \\\n  # why\n\n  two \\\n  three\nuser me\n")
    run, user = file.last.own
    assert run.value.split() == ["one", "&&", "two", "three"]
    assert (run.line, run.end, user.name, user.line) == (2, 6, "USER", 7)


def test_here_documents_are_no_instructions():
    file = Dockerfile.read(
        "FROM a\nRUN --mount=type=cache,target=/c <<EOF\npip install x\nFROM evil\nEOF\n"
        "COPY <<A <<-'B' /to/\none\nA\n\ttwo\n\tB\nCMD [\"x\"]\n"
    )
    run, copy, cmd = file.last.own
    assert run.heredocs == ("pip install x\nFROM evil",)
    assert (run.line, run.end) == (2, 5)
    assert copy.heredocs == ("one", "\ttwo")
    assert copy.takes == []
    assert cmd.line == 11
    assert len(file.stages) == 1


def test_a_shift_in_a_shell_is_no_here_document():
    file = Dockerfile.read("FROM a\nRUN echo $((1<<X)) && cat <<<EOF\nUSER me\n")
    assert [each.name for each in file.last.own] == ["RUN", "USER"]


def test_variables_of_from_and_of_stages():
    file = Dockerfile.read(
        "ARG V=3 W\nARG IMAGE=python:${V}.12${W:-slim}\nFROM $IMAGE AS One\nENV A=1 B=$A$V\n"
        "ARG V\nARG V2=${V}x\nFROM one\nENV C \"c d\"\nRUN x\n"
    )
    assert file.stages[0].image == "python:3.12slim"
    assert file.stages[0].name == "one"
    assert file.last.parent is file.stages[0]
    assert file.last.base == "python:3.12slim"
    assert file.variables(file.stages[0]) == {"A": "1", "B": "", "V": "3", "V2": "3x"}
    assert file.variables(file.last) == {"A": "1", "B": "", "C": "c d"}
    assert Dockerfile.read(file.text, {"V": "4"}).stages[0].image == "python:4.12slim"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("$A-${A}", "1-1"), ("${N:-d}${N-e}", "de"), ("${E:-d}${E-e}", "d"),
        ("${A:+x}${N:+y}", "x"), (r"\$A", "$A"), ("${N:-${A}}", "1"), ("$N", ""),
    ],
)  # fmt: skip
def test_variables_are_filled_in(text, filled):
    assert expand(text, {"A": "1", "E": ""}) == filled


def test_the_escape_directive_and_a_byte_order_mark():
    file = Dockerfile.read("\ufeff# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN x `\n y\n")
    assert file.last.own[0].value.split() == ["x", "y"]
    assert file.directives == {"syntax": 1, "escape": 2}


def test_onbuild_is_for_those_who_build_upon_it():
    file = Dockerfile.read("FROM a AS one\nONBUILD USER me\nFROM one\nRUN x\n")
    assert [each.name for each in file.stages[0].all] == ["ONBUILD"]
    assert [each.name for each in file.last.all] == ["ONBUILD", "USER", "RUN"]


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "RUN x\n", "FORM a\n", "FROM\n", "FROM $NOBODY\n", "FROM a b c\n"]
)
def test_what_docker_cannot_read(text):
    with pytest.raises(DockerfileError):
        Dockerfile.read(text)


def test_the_copy_that_is_built_has_a_label_in_each_stage_and_no_frontend():
    file = Dockerfile.read(
        "# syntax=docker/dockerfile:1\nFROM a \\\n  AS one\nRUN x\n\nFROM b\nCOPY --from=one /x /\n"
    )
    built = Dockerfile.read(labelled(file, "l=v"))
    assert [each.name for each in built.instructions] == ["LABEL", "RUN", "LABEL", "COPY"]
    assert built.directives == {}
    first = Dockerfile.read(labelled(file, "l=v", 1))
    assert [each.name for each in first.instructions] == ["LABEL", "RUN"]


def test_the_images_that_a_build_needs():
    file = Dockerfile.read(
        "ARG BASE=p\nFROM ${BASE} AS one\nCOPY --from=ghcr.io/uv:1 /uv /bin/\nFROM one AS two\n"
        "FROM scratch\nCOPY --from=TWO /a /\nCOPY --from=0 /b /\n"
    )
    assert needed_images(file) == ["p", "ghcr.io/uv:1"]
    assert not needs_buildkit(file)
    for line in ("RUN --mount=type=cache,target=/x y", "COPY --chmod=755 a b", "RUN <<E\nx\nE"):
        assert needs_buildkit(Dockerfile.read(f"FROM a\n{line}\n"))


# What is left out


@pytest.mark.parametrize(
    ("patterns", "ignored", "taken"),
    [
        ("__pycache__\n*.pyc", "__pycache__/a.pyc a.pyc", "worker/__pycache__/a.pyc worker/a.pyc"),
        ("**/__pycache__/\n**/*.pyc", "__pycache__/a x.pyc a/b/__pycache__/c/d q/x.pyc", "a.py"),
        ("*\n!worker\n**/__pycache__", "a .git/HEAD worker/__pycache__/x", "worker/a.py"),
        ("/.git/\n .venv ", ".git/HEAD .venv/bin/python", "a/.git/x"),
        ("# x\n!\n\n.", "", "# x ! a"),
        ("*/temp*\n*/*/temp*\ntemp?", "a/temporary a/b/tempx tempa", "temporary a/b/c/temp"),
        ("a[b-d]e\n[^x]y\n\\*z", "abe ay *z", "aee xy az"),
        ("**", "a b/c", ""),
        ("foo/../bar\n./baz", "bar baz/x", "foo"),
        ("a.b+(d)", "a.b+(d)", "aXb+(d)"),
        ("!a\na\n!a/keep", "a a/b", "a/keep/x"),
        ("ABC", "ABC", "abc"),
    ],
)
def test_patterns_are_docker_s_own(patterns, ignored, taken):
    ignore = Ignore.read(patterns)
    assert [p for p in ignored.split(" ") if p and not ignore.ignores(p)] == []
    assert [p for p in taken.split(" ") if p and ignore.ignores(p)] == []


def test_what_a_source_of_copy_brings(tmp_path):
    fill(tmp_path, {"a.py": "", "worker/b.py": "", "worker/deep/c.py": "", ".dockerignore": "*.py"})
    context = Context.read(tmp_path)
    assert context.below("./worker/") == ["worker/b.py", "worker/deep/c.py"]
    assert context.below("w*") == ["worker/b.py", "worker/deep/c.py"]
    assert context.below("worker/*.py") == ["worker/b.py"]
    assert context.code(["."]) == ["worker/b.py", "worker/deep/c.py"]
    assert context.lacks("a.py") == "is ignored"
    assert context.lacks("b.py") == "is not there"
    for there in ("worker", "/worker", ".", "wheel[s]", ".dockerignore"):
        assert context.lacks(there) == ""


# Packages


@pytest.mark.parametrize(
    "text",
    [
        "redis==8.1.0", "redis == 8.1.0", "uvicorn[standard]==0.5", "a===1", "a==1,>0",
        'a==1 ; python_version < "3.12"', "a @ https://x/a-1-py3-none-any.whl",
        "a @ git+https://x/a@0123abc", "git+ssh://git@x/a@v1.0#egg=a", "./local", "https://x/a.zip",
    ],
)  # fmt: skip
def test_exact_versions(text):
    assert is_exact(text)


@pytest.mark.parametrize(
    "text",
    ["redis", "redis>=8", "redis~=8.1", "redis==8.*", "redis<9", "redis 8", "git+https://x/a",
     "a @ git+ssh://git@x/a"],
)  # fmt: skip
def test_open_versions(text):
    assert not is_exact(text)


def test_a_list_with_hashes_includes_and_constraints(tmp_path):
    fill(tmp_path, {
        "requirements.txt": "\ufeff# top\n-r more/other.txt\n-c limits.txt\n--no-binary :all:\n"
        "redis==8.1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nFast_API  # limited\n",
        "more/other.txt": "uvicorn>=1\n-r ../requirements.txt\n",
        "limits.txt": "fast-api==1.0\n",
    })  # fmt: skip
    assert [(e.file, e.line, e.text) for e in unpinned(tmp_path)] == [
        ("more/other.txt", 1, "uvicorn>=1")
    ]


@pytest.mark.parametrize(
    ("command", "fetches"),
    [
        ("pip install -r requirements.txt", True),
        ("pip install --no-index --find-links=/w -r requirements.txt", False),
        ("/v/bin/pip install --no-cache /wheels/*", False),
        ("python3 -m pip --no-cache-dir wheel -w /w -rr.txt 2>/dev/null", True),
        ("pip install --upgrade pip setuptools", False),
        ("set -e; if true; then uv pip install --system redis==8; fi", True),
        ('["sh", "-c", "uv sync --frozen"]', True),
        ("pip install .", False),
    ],
)
def test_what_is_fetched(command, fetches):
    found = installs(Instruction("RUN", command), {})
    assert len(found) == 1
    assert found[0].fetches is fetches


# The checks that read


PROJECT = {
    "Procfile": "worker: python -m worker\napi: python -m orchestrator\n",
    "requirements.txt": "redis==8.1.0\n",
    "work.py": "", "worker/__init__.py": "", "worker/__main__.py": "", "orchestrator/app.py": "",
    ".dockerignore": ".git\n**/__pycache__\n.venv\n",
    "start.sh": "#!/bin/sh\nset -e\nexec python -m worker\n",
    "bad.sh": "#!/bin/bash\n# exec would be better\npython -m worker\n",
    "entry.sh": '#!/bin/sh\nexec "$@"\n',
}  # fmt: skip
BUILD = "FROM p AS b\nCOPY requirements.txt .\nRUN pip install -t /p -r requirements.txt\n"
LAST = "FROM p\nCOPY --from=b /p /p\nCOPY . /app\nUSER app\n"

RIGHT = {
    "plain": BUILD + LAST + 'CMD ["python", "-m", "worker"]',
    "by number": BUILD + "FROM p\nCOPY --chown=1:1 --from=0 /p /p\nCOPY worker /a\nUSER 1000:0\n"
    'ENTRYPOINT ["python", "-m"]\nCMD ["worker"]',
    "a base of its own": "FROM p AS base\nUSER me\nFROM base AS b\nUSER root\n"
    "RUN apt-get install -y gcc\nCOPY requirements.txt .\nRUN pip wheel -w /w -r requirements.txt\n"
    "FROM base\nRUN --mount=from=b,source=/w,target=/w pip install --no-index -f /w redis==8.1.0\n"
    'COPY worker /w\nCMD ["python", "-m", "worker"]',
    "mounts": "FROM p AS b\nRUN --mount=type=bind,source=requirements.txt,target=/r.txt "
    "--mount=type=cache,target=/var/cache/pip pip install --prefix=/p -r /r.txt\n"
    + LAST + "ENTRYPOINT exec python -m worker",
    "wheels, then code, then the wheels": "FROM p AS b\nCOPY requirements.txt .\n"
    "RUN pip wheel -w /w -r requirements.txt\nFROM p\nCOPY . .\nCOPY --from=b /w /w\n"
    'RUN pip install /w/*.whl && pip install -U pip\nUSER nobody\nCMD ["./start.sh"]',
    "an init and a shell that makes way": BUILD + LAST
    + 'ENTRYPOINT ["tini", "--", "/entry.sh"]\nCMD ["sh", "-c", "x=1; exec python -m worker"]',
    "dumb-init tells the whole group": BUILD + LAST
    + 'ENTRYPOINT ["dumb-init", "--"]\nCMD python -m worker',
    "distroless": BUILD + "FROM gcr.io/distroless/python3-debian12:nonroot\n"
    'COPY --from=b /p /p\nCOPY . /app\nCMD ["/app/worker/__main__.py"]',
    "a compiler that goes again": BUILD + LAST.replace("USER", "RUN apk add --virtual x gcc && "
    "make; apk del x\nUSER") + 'CMD ["env", "A=b", "python", "-m", "worker"]',
    "user by a variable": BUILD + "FROM p\nARG UID=10001\nENV WHO=${UID}:${UID}\n"
    "COPY --from=b /p /p\n"
    'USER "$WHO"\nCOPY . .\nCMD ["bash", "start.sh"]',
    "a variable and then exec": BUILD + LAST + 'CMD ["sh", "-c", "A=1 B=2 exec python -m worker"]',
    "a trap": BUILD + LAST
    + "CMD trap 'kill $p; wait $p; exit $?' TERM; python -m worker & p=$!; wait $p",
}  # fmt: skip

WRONG = {
    "single-stage": {
        "one stage": "FROM p\nCOPY requirements.txt .\nRUN pip install -r requirements.txt\n"
        'COPY . .\nUSER me\nCMD ["x"]',
        "nothing taken": BUILD + 'FROM p\nCOPY . .\nUSER me\nCMD ["x"]',
        "only of other images": BUILD + 'FROM p\nCOPY --from=nginx /a /b\nUSER me\nCMD ["x"]',
        "all that is in it": BUILD + LAST + 'COPY --from=b / /\nCMD ["x"]',
        "all of it": BUILD + 'FROM b\nCOPY . .\nUSER me\nCMD ["x"]',
    },
    "built-in-the-last-stage": {
        "fetched": BUILD + LAST.replace("COPY .", "RUN pip install redis==8.1.0\nCOPY .")
        + 'CMD ["x"]',
        "compiler": BUILD + LAST.replace("USER", "RUN apt-get update && apt-get -y install "
        "build-essential\nUSER") + 'CMD ["x"]',
        "upon a stage that fetches": BUILD + "FROM b\nCOPY --from=0 /p /q\nCOPY . .\nUSER me\n"
        'CMD ["x"]',
        "lock file": BUILD + LAST.replace("COPY .", "RUN uv sync --frozen\nCOPY .") + 'CMD ["x"]',
    },
    "code-before-dependencies": {
        "all": "FROM p AS b\nCOPY . .\nRUN pip install -t /p -r requirements.txt\n" + LAST
        + 'CMD ["x"]',
        "a pattern": "FROM p AS b\nCOPY requirements.txt *.py ./\nRUN pip install -rr.txt\n" + LAST
        + 'CMD ["x"]',
        "in the stage before": "FROM p AS a\nADD worker /w\nFROM a AS b\n"
        "RUN pip install -t /p redis==8.1.0\n" + LAST + 'CMD ["x"]',
        "mounted": "FROM p AS b\nRUN --mount=type=bind,target=/s pip install -r /s/r.txt\n" + LAST
        + 'CMD ["x"]',
        "as a package": "FROM p AS b\nCOPY . .\nRUN pip install .\n" + LAST + 'CMD ["x"]',
    },
    "dependencies-not-installed": {"none": "FROM p AS b\nRUN true\n" + LAST + 'CMD ["x"]'},
    "runs-as-root": {
        "nobody says": BUILD + LAST.replace("USER app\n", "") + 'CMD ["x"]',
        "root": BUILD + LAST + 'USER root:root\nCMD ["x"]',
        "0": BUILD + LAST + 'USER 00:1000\nCMD ["x"]',
        "an argument": BUILD + LAST + 'ARG WHO\nUSER ${WHO}\nCMD ["x"]',
        "another stage": BUILD + "USER me\n" + LAST.replace("USER app\n", "") + 'CMD ["x"]',
        "by default": BUILD + LAST + 'ARG WHO=root\nUSER $WHO\nCMD ["x"]',
    },
    "shell-keeps-signals": {
        "shell form": BUILD + LAST + "CMD python -m worker",
        "exec that redirects": BUILD + LAST + 'CMD ["sh", "-c", "exec 2>&1; python -m worker"]',
        "an empty trap": BUILD + LAST + """CMD trap '' TERM; python -m worker""",
        "single quotes": BUILD + LAST + "CMD ['python', '-m', 'worker']",
        "entry point": BUILD + LAST + 'ENTRYPOINT python -m worker\nCMD ["exec"]',
        "sh -c": BUILD + LAST + 'CMD ["/bin/bash", "-ec", "python -m worker"]',
        "init": BUILD + LAST + 'ENTRYPOINT ["/sbin/tini", "--"]\nCMD ["sh", "-c", "python x"]',
        "script": BUILD + LAST + 'ENTRYPOINT ["/app/bad.sh"]',
        "script of a shell": BUILD + LAST + 'CMD ["sh", "/app/bad.sh"]',
        "behind a script that makes way": BUILD + LAST
        + 'ENTRYPOINT ["/app/entry.sh"]\nCMD python -m worker',
    },
    "no-command": {
        "none": BUILD + LAST,
        "in the first stage": BUILD + 'CMD ["x"]\n' + LAST,
        "reset": BUILD + LAST + "CMD []",
    },
}  # fmt: skip

READING = [
    checks.test_pins_its_dependencies, checks.test_builds_in_two_stages,
    checks.test_copies_dependencies_before_the_code, checks.test_runs_as_an_ordinary_user,
    checks.test_gets_signals_itself, checks.test_leaves_out_what_is_not_needed,
]  # fmt: skip


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def codes(folder: Path, files: dict[str, str]) -> list[str]:
    """What the checks that read find in a folder."""
    fill(folder, PROJECT | files)
    submission = SimpleNamespace(path=folder)
    found = []

    def finding(code, expected, seen, *evidence):
        return Finding(code, expected, seen, evidence)

    for check in READING:
        lab = SimpleNamespace(session=SimpleNamespace(submission=submission), tell=lambda _: None,
                              finding=finding)  # fmt: skip
        try:
            check(lab)
        except Finding as error:
            found.append(error.code)
    return found


@pytest.mark.parametrize("name", RIGHT)
def test_right_dockerfiles_are_right(tmp_path, name):
    assert codes(tmp_path, {"Dockerfile": RIGHT[name]}) == []


@pytest.mark.parametrize(("code", "name"), [(c, n) for c, texts in WRONG.items() for n in texts])
def test_wrong_dockerfiles_are_found_for_the_right_reason(tmp_path, code, name):
    assert codes(tmp_path, {"Dockerfile": WRONG[code][name]}) == [code]


@pytest.mark.parametrize(
    ("patterns", "right"),
    [
        ("*\n!worker\n**/__pycache__\n", True),
        (".git/\n**/*.pyc\nvenv/\n", True),
        ("**/.git*\n**/__pycache__\n**/env\n", True),
        (".git\n__pycache__\n.venv\n", False),
        (".git\n*.pyc\n.venv\n", False),
        ("**/__pycache__\n.venv\n", False),
        (".git\n**/__pycache__\n", False),
        ("*\n!worker\n", False),
        ("# .git .venv **/__pycache__\n", False),
        ("", False),
    ],
)
def test_what_is_left_out(tmp_path, patterns, right):
    found = codes(tmp_path, {"Dockerfile": RIGHT["plain"], ".dockerignore": patterns})
    assert found == ([] if right else ["context-not-ignored"])


def test_the_virtual_environment_that_is_there_counts(tmp_path):
    files = {"Dockerfile": RIGHT["plain"], "env/pyvenv.cfg": ""}
    assert codes(tmp_path, files) == ["context-not-ignored"]
    assert codes(tmp_path, {**files, ".dockerignore": ".git\n**/__pycache__\nenv\n"}) == []


def test_the_list_of_the_dockerfile_itself_comes_first(tmp_path):
    files = {"Dockerfile": RIGHT["plain"], "Dockerfile.dockerignore": "x\n"}
    assert codes(tmp_path, files) == ["context-not-ignored"]


def test_nothing_there(tmp_path):
    (tmp_path / "a").mkdir()
    assert codes(tmp_path / "a", {"Dockerfile": "FORM x\n"}) == ["dockerfile-unusable"] * 6
    (tmp_path / "a" / "Dockerfile").unlink()
    (tmp_path / "a" / "requirements.txt").unlink()
    found = codes(tmp_path / "a", {"requirements.txt": "# none\n"})
    assert found == ["dependencies-not-pinned"] + ["dockerfile-unusable"] * 5


def test_a_package_that_the_dockerfile_names_is_to_be_exact_too(tmp_path):
    text = RIGHT["plain"].replace("-r requirements.txt\n", "-r requirements.txt 'hiredis>=3' uv\n")
    assert codes(tmp_path, {"Dockerfile": text}) == ["dependencies-not-pinned"]


def test_a_list_of_another_folder_is_not_read(tmp_path):
    fill(tmp_path, {"secret.txt": "redis\n", "theirs/requirements.txt": "-r ../secret.txt\n",
                    "theirs/limits.txt": "-c ../secret.txt\nredis\n"})  # fmt: skip
    (tmp_path / "theirs" / "linked.txt").symlink_to(tmp_path / "secret.txt")
    for name in ("requirements.txt", "linked.txt"):
        with pytest.raises(OSError, match="outside"):
            unpinned(tmp_path / "theirs", name)
    assert [each.text for each in unpinned(tmp_path / "theirs", "limits.txt")] == ["redis"]


def test_a_list_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    fill(tmp_path, {"requirements.txt": "-r pipe\n"})
    with pytest.raises(OSError, match="no ordinary file"):
        unpinned(tmp_path)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("COPY . .", ""),
        ("COPY work.py ./\nCOPY worker/ worker/", ""),
        ("COPY work.py ./\nCOPY worker ./worker", ""),
        ("COPY worker work.py /app/worker/", ""),  # where work.py comes to is left to a build
        ("COPY work.py ./\nCOPY worker ./", "not the folder itself"),
        ("COPY work.py worker ./", "not the folder itself"),
        ("COPY worker/ worker/", "imports work.py"),
        ("COPY --from=build /app /app", ""),
        ("COPY --from=build /app/work.py ./\nCOPY worker/ worker/", ""),
        ("COPY work*.py ./\nCOPY wor*/ worker/", ""),
    ],
)
def test_what_is_started_is_in_the_image(tmp_path, lines, says):
    fill(tmp_path, {
        "worker/__main__.py": "from work import perform\n", "work.py": "def perform(): ...\n",
        "Dockerfile": f'FROM x AS build\nFROM x\n{lines}\nCMD ["python", "-m", "worker"]\n',
    })  # fmt: skip
    file = Dockerfile.read((tmp_path / "Dockerfile").read_text())
    recipe = Recipe(tmp_path, file, Context.read(tmp_path))
    found = brought.trouble(recipe, started(file)[0])
    assert says in (found[0] if found else "")
    assert bool(found) == bool(says)


def test_a_command_of_one_word(tmp_path):
    file = Dockerfile.read('FROM x\nCMD ["python -m worker"]\n')
    found = brought.trouble(Recipe(tmp_path, file, Context.read(tmp_path)), started(file)[0])
    assert "spaces included" in found[0]
