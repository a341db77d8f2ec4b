"""The Makefile and setup.sh: what reaches the commands, and when a set-up is made."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from graders.harness import cli
from graders.harness.settings import ROOT
from graders.tests.test_wheels import make_wheel

SHELL = shutil.which("dash") or "/bin/sh"
# pip has nothing to fetch for these, so a whole set-up takes a second or two.
NO_PACKAGES = """
[project]
name = "worker-labs"
dependencies = []
[project.optional-dependencies]
test = []
"""
VARIABLES = ("LAB", "SRC", "CHECK", "SERVICES", "PATIENCE", "RUNS", "VERBOSE", "N", "STEP", "DOWN",
             "API", "PORT", "PYTHON")  # fmt: skip
OF_THE_KIT = ("DIR", "OUT", "JOBS", "LIMIT", "AGAIN", "LOOK", "WHEELS", "NOTEBOOKS", "PLATFORMS",
              "PYTHONS")


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit that needs no packages, in a folder with awkward characters."""
    root = tmp_path / "a kit's folder (1)"
    (root / "graders" / "harness").mkdir(parents=True)
    for name in ("Makefile", "graders/kit.mk", "graders/setup.sh"):
        shutil.copy(ROOT / name, root / name)
    (root / "pyproject.toml").write_text(NO_PACKAGES)
    (root / "graders" / "constraints.txt").touch()
    (root / "graders" / "__init__.py").touch()
    (root / "graders" / "harness" / "__init__.py").touch()
    (root / "graders" / "harness" / "cli.py").write_text(
        "import os, sys\nprint(sys.argv[1:], [os.environ.get(n) for n in ('SRC', 'CHECK', 'N')])\n"
    )
    return root


def environment(**more: str) -> dict[str, str]:
    """The tests' own environment without what would steer make or the set-up."""
    ours = {*VARIABLES, *OF_THE_KIT, "MAKEFLAGS", "MAKELEVEL"}
    return {**{k: v for k, v in os.environ.items() if k not in ours}, **more}


def make(
    kit: Path, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=kit, env=environment(**env), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120,
    )


def setup(kit: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHELL, "graders/setup.sh", *arguments], cwd=kit, env=environment(**env),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def tools(folder: Path) -> str:
    """A PATH with what setup.sh needs of a system, and no Python."""
    folder.mkdir(exist_ok=True)
    for name in ("dirname", "mkdir", "rm", "cat", "find", "df", "awk", "grep", "tail", "sed",
                 "sleep", "uname", "sh"):  # fmt: skip
        (folder / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    return str(folder)


def stamps(kit: Path) -> set[str]:
    return {p.name for p in (kit / ".venv").glob(".ready-*")}


# The Makefile


def test_help_is_the_default_fits_and_needs_nothing(kit: Path) -> None:
    done = make(kit)
    assert done.returncode == 0
    assert done.stdout == make(kit, "help").stdout
    assert "make grade LAB=03" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert not (kit / ".venv").exists()


def told(file: str, start: str) -> list[str]:
    """What stands behind these words in the one line of the file that begins with them."""
    text = (ROOT / file).read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line.removeprefix(start).split()


def commands() -> list[str]:
    return [*told("Makefile", "COMMANDS := "), *told("graders/kit.mk", "KIT_COMMANDS := ")]


def test_help_names_every_command_and_every_variable() -> None:
    said = make(ROOT).stdout
    for command in commands():
        assert f"make {command} " in said or f"make {command}\n" in said
    assert set(told("Makefile", "export ")) == set(VARIABLES)
    assert set(told("graders/kit.mk", "export ")) == set(OF_THE_KIT)
    for variable in (*VARIABLES, *OF_THE_KIT):
        assert f"  {variable}=" in said


def test_help_has_its_columns_in_line() -> None:
    lines = [line for line in make(ROOT).stdout.splitlines() if line.startswith("  ")]
    assert len(lines) > 40
    for line in lines:
        assert line[31] == " " or line.rstrip() == line[:31], line
        assert line[32:33] != " ", line


def test_every_command_is_one_of_the_commands() -> None:
    """What make hands on, the program behind it knows."""
    assert set(commands()) <= set(cli.COMMANDS)


def test_without_the_part_for_instructors_all_else_works(kit: Path) -> None:
    (kit / "graders" / "kit.mk").unlink()
    done = make(kit)
    assert done.returncode == 0
    assert "make grade LAB=03" in done.stdout
    assert "grade-all" not in done.stdout
    assert make(kit, "labs").stdout.startswith("['labs']")
    assert "No rule" in make(kit, "grade-all").stderr


def test_every_variable_reaches_the_commands(kit: Path) -> None:
    names = (*VARIABLES, *OF_THE_KIT)
    (kit / "graders" / "harness" / "cli.py").write_text(
        f"import os\nprint([os.environ.get(n) for n in {names}])\n"
    )
    made = make(kit, "labs", *(f"{name}={name} $$x" for name in names if name != "PYTHON"),
                f"PYTHON={sys.executable}")
    assert made.stdout == str([
        sys.executable if name == "PYTHON" else f"{name} $x" for name in names
    ]) + "\n"


@pytest.mark.parametrize("command", ["api", "migrate", "redis-cli"])
def test_a_command_runs_whatever_lies_in_the_folder(kit: Path, command: str) -> None:
    (kit / command).mkdir()
    assert make(kit, command).stdout.startswith(f"['{command}']")


def test_from_nothing_to_a_command_and_then_at_no_cost(kit: Path) -> None:
    first = make(kit, "labs", "SRC=a b/c's \"d\"; echo oops")
    assert first.returncode == 0, first.stderr
    assert first.stderr.splitlines() == ["Setting up (once, about half a minute) …"]
    assert first.stdout == "['labs'] [" + repr("a b/c's \"d\"; echo oops") + ", '', '']\n"
    assert stamps(kit) == {".ready-base"}

    again = make(kit, "labs", "SRC=$$HOME `id`", "CHECK=x", N="3")
    assert again.stderr == ""
    assert again.stdout == "['labs'] ['$HOME `id`', 'x', '3']\n"  # $$ is make's way to say $
    assert make(kit, "labs", SRC="$HOME #").stdout == "['labs'] ['$HOME #', '', '']\n"

    # The kit itself can be imported from anywhere, with no package of it installed.
    python = kit / ".venv" / "bin" / "python"
    subprocess.run([python, "-c", "import graders.harness"], cwd="/", check=True, timeout=60)
    subprocess.run([python, "-m", "pip", "--version"], check=True, capture_output=True, timeout=60)

    # What a set-up is made of has changed.
    os.utime(kit / ".venv" / ".ready-base", (1, 1))
    assert make(kit, "labs").stderr.splitlines() == ["Bringing the environment up to date …"]
    assert make(kit, "labs").stderr == ""

    # The folder was moved.
    moved = kit.with_name("moved")
    kit.rename(moved)
    assert make(moved, "labs").stderr.splitlines() == ["Bringing the environment up to date …"]
    python = moved / ".venv" / "bin" / "python"
    where = "import graders; print(graders.__file__)"
    said = subprocess.check_output([python, "-c", where], cwd="/", text=True, timeout=60)
    assert said.startswith(str(moved))

    # Its Python has gone, and it had been left half made.
    python.unlink()
    python.symlink_to("/nowhere/python3")
    (moved / ".venv" / ".unfinished").touch()
    (moved / ".venv" / "left").touch()
    assert make(moved, "labs").stderr.splitlines() == ["Setting up (once, about half a minute) …"]
    assert not (moved / ".venv" / "left").exists()
    assert not (moved / ".venv" / ".unfinished").exists()

    # An extra comes on top, in one set-up.
    assert setup(moved, "test").returncode == 0
    assert stamps(moved) == {".ready-base", ".ready-test"}


# setup.sh


def test_setup_is_plain_posix_shell() -> None:
    for shell in filter(None, map(shutil.which, ("dash", "bash", "busybox"))):
        command = [shell, "sh"] if shell.endswith("busybox") else [shell]
        subprocess.run([*command, "-n", ROOT / "graders" / "setup.sh"], check=True, timeout=60)


def test_a_machine_without_python_is_told_how_to_get_one(kit: Path, tmp_path: Path) -> None:
    done = setup(kit, PATH=tools(tmp_path / "bin"))
    assert done.returncode == 2
    assert "needs Python 3.11 or newer, and none was found" in done.stderr
    assert not (kit / ".venv").exists()
    assert not list((kit / ".worker-labs").glob("setting-up"))


def test_commands_that_do_not_run_are_passed_over(kit: Path, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    program(tmp_path / "bin" / "python3.14", "#!/bin/sh\necho no such version >&2; exit 127\n")
    program(tmp_path / "bin" / "python3.13", "#!/nowhere/python\n")
    program(tmp_path / "bin" / "python3.12", "#!/bin/sh\nexit 3\n")  # as one that is too old
    program(tmp_path / "bin" / "python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    done = setup(kit, PATH=path)
    assert done.returncode == 0, done.stderr
    assert stamps(kit) == {".ready-base"}


def test_a_missing_ensurepip_is_named(kit: Path, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    program(tmp_path / "bin" / "python3",
            '#!/bin/sh\ncase "$*" in *version_info\\[:2\\]*) echo 3.11;; *) exit 4;; esac\n')
    done = setup(kit, PATH=path)
    assert done.returncode == 2
    assert "cannot make environments (its module ensurepip is missing)" in done.stderr


def test_python_overrides_the_search(kit: Path, tmp_path: Path) -> None:
    program(tmp_path / "my pythons" / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    done = setup(kit, PYTHON=str(tmp_path / "my pythons" / "python"))
    assert done.returncode == 0, done.stderr
    shutil.rmtree(kit / ".venv")
    done = setup(kit, PYTHON="/nowhere/python")
    assert done.returncode == 2
    assert "PYTHON=/nowhere/python is not a Python 3.11 or newer that runs." in done.stderr


def test_a_lock_that_was_left_is_taken_over(kit: Path) -> None:
    (kit / ".worker-labs").mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (kit / ".worker-labs" / "setting-up").write_text(f"{ended.pid}\n")
    done = setup(kit, PYTHON="/nowhere/python")
    assert "PYTHON=/nowhere/python" in done.stderr  # it has come past the lock
    assert not (kit / ".worker-labs" / "setting-up").exists()


def test_two_set_ups_at_once_make_one(kit: Path) -> None:
    both = [
        subprocess.Popen([SHELL, "graders/setup.sh"], cwd=kit, env=environment(), text=True,
                         stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = sorted(each.communicate(timeout=120)[1] for each in both)
    assert [each.returncode for each in both] == [0, 0]
    assert said == ["Another set-up is under way in this folder; waiting for it.\n",
                    "Setting up (once, about half a minute) …\n"]


def test_without_a_network_it_says_so(kit: Path) -> None:
    (kit / "pyproject.toml").write_text(
        NO_PACKAGES.replace("dependencies = []", 'dependencies = ["worker-labs-is-not-there"]', 1)
    )
    # A port on which nobody listens stands in for a network that is down.
    done = setup(kit, PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL="http://127.0.0.1:9/simple",
                 PIP_EXTRA_INDEX_URL="", PIP_FIND_LINKS="", no_proxy="*")
    assert done.returncode == 2
    assert "the packages could not be downloaded" in done.stderr
    assert "The whole log: .worker-labs/setup.log" in done.stderr
    assert stamps(kit) == set()


def test_what_pip_could_not_do_is_shown(kit: Path) -> None:
    (kit / "graders" / "constraints.txt").write_text("this is ! no constraint\n")
    done = setup(kit)
    assert done.returncode == 2
    assert "The last lines of its log:" in done.stderr
    assert "constraint" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_named(kit: Path) -> None:
    kit.chmod(0o555)
    try:
        done = setup(kit)
    finally:
        kit.chmod(0o755)
    assert done.returncode == 2
    assert "cannot write to this folder" in done.stderr


# setup.sh with a wheelhouse


def without_network(kit: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A set-up where nobody listens on the port of the index."""
    return setup(kit, PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL="http://127.0.0.1:9/simple",
                 PIP_EXTRA_INDEX_URL="", PIP_FIND_LINKS="", no_proxy="*", **more)


def needs(kit: Path, *packages: str) -> None:
    listed = ", ".join(f'"{package}"' for package in packages)
    (kit / "pyproject.toml").write_text(
        NO_PACKAGES.replace("dependencies = []", f"dependencies = [{listed}]", 1)
    )


def version_of(kit: Path, module: str) -> str:
    return subprocess.check_output(
        [kit / ".venv" / "bin" / "python", "-I", "-c", f"import {module}; print({module}.VERSION)"],
        text=True, timeout=60,
    ).strip()


def test_a_wheelhouse_serves_a_set_up_without_a_network(kit: Path) -> None:
    needs(kit, "tiny-worker >=1")
    (kit / "graders" / "constraints.txt").write_text("tiny-worker==1.0\n")
    make_wheel(kit / ".wheelhouse", "tiny_worker", "1.0", "tiny_queue")
    make_wheel(kit / ".wheelhouse", "tiny_worker", "2.0")
    make_wheel(kit / ".wheelhouse", "tiny_queue", "3.0")
    done = without_network(kit)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["Setting up (once, about half a minute) …"]
    assert version_of(kit, "tiny_worker") == "1.0"
    assert version_of(kit, "tiny_queue") == "3.0"
    # The wheelhouse has no say in whether the environment is up to date.
    os.utime(kit / ".wheelhouse" / "tiny_queue-3.0-py3-none-any.whl", None)
    assert make(kit, "labs").stderr == ""
    shutil.rmtree(kit / ".wheelhouse")
    assert make(kit, "labs").stderr == ""


@pytest.mark.parametrize(
    ("version", "tag", "pinned"),
    [
        ("1.0", "cp39-cp39-win32", "==1.0"),  # for another machine
        ("0.9", "py3-none-any", "==1.0"),  # as of an earlier release of the kit
        ("0.9", "py3-none-any", ""),
    ],
)
def test_a_wheelhouse_that_does_not_suffice_is_told_and_the_network_is_asked(
    kit: Path, tmp_path: Path, version: str, tag: str, pinned: str
) -> None:
    needs(kit, "tiny-worker >=1")
    if pinned:
        (kit / "graders" / "constraints.txt").write_text(f"tiny-worker{pinned}\n")
    make_wheel(kit / ".wheelhouse", "tiny_worker", version, tag=tag)
    python = f"Python {sys.version_info[0]}.{sys.version_info[1]} on this machine"
    lacking = f".wheelhouse has no fitting wheel of tiny-worker{pinned} for {python}"
    done = without_network(kit)
    assert done.returncode == 2
    assert f"Note: {lacking}; fetching everything from the network.\n" in done.stderr
    assert (f"The set-up failed: {lacking}, and the packages could not be downloaded either."
            in done.stderr.replace("\n", " "))
    assert stamps(kit) == set()

    # A folder stands in for the network that is up again.
    make_wheel(tmp_path / "index", "tiny_worker", "1.0")
    done = setup(kit, PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1",
                 PIP_FIND_LINKS=str(tmp_path / "index"))
    assert done.returncode == 0, done.stderr
    assert f"Note: {lacking}; fetching everything from the network.\n" in done.stderr
    assert version_of(kit, "tiny_worker") == "1.0"
    assert stamps(kit) == {".ready-base"}


@pytest.mark.parametrize("wheels", [True, False])
def test_the_python_that_there_are_wheels_for_comes_first(
    kit: Path, tmp_path: Path, wheels: bool
) -> None:
    """A newer one would have to download its packages."""
    path, made = tools(tmp_path / "bin"), tmp_path / "made"
    for name, tag in (("python3.14", "cp399"), ("python3.12", "cp398")):
        program(tmp_path / "bin" / name, (
            f'#!/bin/sh\ncase "$*" in *cp%d%d*) echo {tag}; exit;; *"-m venv"*) echo {name} '
            f'>> {made};; esac\nexec "{sys.executable}" "$@"\n'
        ))
    if wheels:
        make_wheel(kit / ".wheelhouse", "tiny_worker", tag="cp398-cp398-any")
    done = setup(kit, PATH=path)
    assert done.returncode == 0, done.stderr
    assert made.read_text().split() == ["python3.12" if wheels else "python3.14"]


def test_a_damaged_wheel_is_no_obstacle_while_there_is_a_network(kit: Path, tmp_path: Path) -> None:
    needs(kit, "tiny-worker")
    make_wheel(tmp_path / "index", "tiny_worker")
    wheel = make_wheel(kit / ".wheelhouse", "tiny_worker")
    wheel.write_bytes(wheel.read_bytes()[:-40])
    done = setup(kit, PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1",
                 PIP_FIND_LINKS=str(tmp_path / "index"))
    assert done.returncode == 0, done.stderr
    assert "Note: what is in .wheelhouse cannot be installed with Python" in done.stderr
    assert version_of(kit, "tiny_worker") == "1.0"


def test_an_empty_wheelhouse_is_as_good_as_none(kit: Path) -> None:
    needs(kit, "tiny-worker")
    (kit / ".wheelhouse").mkdir()
    done = without_network(kit)
    assert done.returncode == 2
    assert "the packages could not be downloaded. It needs the network once" in done.stderr
    assert ".wheelhouse" not in done.stderr
