"""`make wheels`: who needs what on which machine, and what is in the folder afterwards.

A folder of tiny wheels stands in for the index, so nothing here needs a network.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from graders.classes import wheels
from graders.harness.settings import ROOT, SettingError

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
LEAST = SpecifierSet(">=3.11")
PROJECT = """
[project]
name = "worker-labs"
requires-python = ">=3.11"
dependencies = ["tiny >=1,<2"]
[project.optional-dependencies]
notebook = ["book[pretty]"]
test = ["never-there"]
"""
PINS = "# what all resolved to\ntiny==1.0\nbook==2.0\nnever-there==1\n"


def make_wheel(
    folder: Path, name: str, version: str = "1.0", *needs: str, tag: str = "py3-none-any"
) -> Path:
    """Write a wheel with one module that knows its version; needs are lines of its metadata."""
    info = f"{name}-{version}.dist-info"
    lines = [need if ": " in need else f"Requires-Dist: {need}" for need in needs]
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": "\n".join(
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""]
        ),
        f"{info}/WHEEL": "\n".join(
            ["Wheel-Version: 1.0", "Generator: test", f"Root-Is-Purelib: true\nTag: {tag}", ""]
        ),
    }
    record = []
    for inside, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{inside},sha256={digest.decode()},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place that pip knows: a folder with what the kit of these tests needs."""
    folder = tmp_path / "index"
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    make_wheel(folder, "tiny", "1.0")
    make_wheel(folder, "tiny", "1.1")
    make_wheel(folder, "book", "2.0", "Provides-Extra: pretty", "ink; extra == 'pretty'",
               "glue; extra == 'other'", "apple; platform_system == 'Darwin'",
               "ancient; python_full_version < '3.12.3'")  # fmt: skip
    make_wheel(folder, "ink", "0.5", "tiny")
    make_wheel(folder, "apple", "3.0")
    make_wheel(folder, "ancient", "4.0")
    return folder


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit in a folder with awkward characters."""
    root = tmp_path / "a kit's folder (1)"
    (root / "graders").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "graders" / "constraints.txt").write_text(PINS)
    return root


def names(kit: Path) -> set[str]:
    """The packages in the wheelhouse, each with its version."""
    return {"-".join(p.name.split("-")[:2]) for p in (kit / ".wheelhouse").iterdir()}


def on_linux() -> set[str]:
    """What a set-up with this Python needs on Linux: an old patch release is thought of."""
    return {"tiny-1.0", "book-2.0", "ink-0.5"} | (
        {"ancient-4.0"} if sys.version_info < (3, 13) else set()
    )


def here() -> set[str]:
    return on_linux() | ({"apple-3.0"} if sys.platform == "darwin" else set())


# What is fetched


def test_fills_with_what_a_set_up_needs_and_no_more(
    kit: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wheels.main({}, kit) == 0
    assert names(kit) == here()
    said = capsys.readouterr().out
    assert f".wheelhouse holds {len(here())} packages" in said
    assert f"Python {HERE} on this machine: {len(here())} packages" in said
    assert "Not pinned in graders/constraints.txt" in said
    assert "ink 0.5" in said
    assert "make student-kit WHEELS=1" in said


def test_what_is_there_is_not_fetched_again(
    kit: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheels.main({}, kit)
    before = {p.name: p.stat().st_mtime_ns for p in (kit / ".wheelhouse").iterdir()}
    for path in index.iterdir():
        path.unlink()
    capsys.readouterr()
    assert wheels.main({}, kit) == 0
    assert {p.name: p.stat().st_mtime_ns for p in (kit / ".wheelhouse").iterdir()} == before
    assert ": 0 wheels were fetched now, 0 old ones removed." in capsys.readouterr().out


def test_another_version_takes_the_place_of_the_old_one(kit: Path, index: Path) -> None:
    wheels.main({}, kit)
    make_wheel(kit / ".wheelhouse", "dropped", "7.0")  # as of an earlier release of the kit
    (kit / "graders" / "constraints.txt").write_text(PINS.replace("tiny==1.0", "tiny==1.1"))
    assert wheels.main({}, kit) == 0
    assert names(kit) == (here() - {"tiny-1.0"}) | {"tiny-1.1"}


def test_half_files_and_damaged_wheels_are_fetched_anew(kit: Path, index: Path) -> None:
    wheels.main({}, kit)
    house = kit / ".wheelhouse"
    for path in house.glob("*.whl"):
        path.write_bytes(path.read_bytes()[:-40])
    (house / ".fetching-left").mkdir()
    (house / ".fetching-left" / "tiny-1.0-py3-none-any.whl").write_bytes(b"half")
    assert wheels.main({}, kit) == 0
    assert names(kit) == here()
    for path in house.iterdir():
        assert wheels.Wheel.read(path) is not None


def test_an_interrupted_run_keeps_what_is_whole_and_nothing_else(
    kit: Path, index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = subprocess.run, []

    def interrupted(command: list[str], **more: object) -> object:
        calls.append(command)
        if len(calls) == 2:
            (dest,) = (w.partition("=")[2] for w in command if w.startswith("--dest="))
            (Path(dest) / "ink-0.5-py3-none-any.whl").write_bytes(b"half")
            raise KeyboardInterrupt
        return real(command, **more)

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wheels.main({}, kit)
    assert names(kit) == {"tiny-1.0", "book-2.0"}
    assert "What was fetched is kept" in capsys.readouterr().err


# For other machines


def test_conditions_are_those_of_the_machine_that_installs(
    kit: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Mac needs `apple`; Python 3.13 does not need `ancient`, though 3.12 may."""
    wheels.main({"PLATFORMS": "macos-arm64, linux-arm64", "PYTHONS": "3.12 3.13"}, kit)
    assert names(kit) == {*here(), "ancient-4.0", "apple-3.0"}
    said = capsys.readouterr().out
    for python, platform, count in (("3.12", "macos-arm64", 5), ("3.13", "macos-arm64", 4),
                                    ("3.12", "linux-arm64", 4), ("3.13", "linux-arm64", 3)):
        assert f"Python {python} on {platform}: {count} packages" in said


def test_wheels_of_an_earlier_run_for_other_machines_stay(
    kit: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheels.main({"PLATFORMS": "macos-arm64", "PYTHONS": "3.12"}, kit)
    before = names(kit)
    assert wheels.main({}, kit) == 0
    assert names(kit) == before


def test_of_two_wheels_the_one_for_older_systems_is_taken(
    kit: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (index / "ink-0.5-py3-none-any.whl").unlink()
    for tag in ("macosx_11_0_arm64", "macosx_14_0_arm64", "manylinux_2_28_aarch64",
                "manylinux2014_aarch64", "manylinux_2_34_aarch64"):  # fmt: skip
        make_wheel(index, "ink", "0.5", tag=f"cp313-cp313-{tag}")
    make_wheel(index, "ink", "0.5", tag=f"py3-none-{next(iter(wheels.tags.platform_tags()))}")
    wheels.main({"PLATFORMS": "macos-arm64 linux-aarch64", "PYTHONS": "3.13"}, kit)
    fetched = {p.name for p in (kit / ".wheelhouse").glob("ink-0.5-cp313-*")}
    assert fetched == {
        "ink-0.5-cp313-cp313-macosx_11_0_arm64.whl", "ink-0.5-cp313-cp313-manylinux2014_aarch64.whl"
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "macOS 11.0 or newer" in said
    assert "glibc 2.17 or newer" in said


def test_a_package_that_is_not_for_each_patch_release_is_told(
    kit: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    this = ".".join(map(str, sys.version_info[:3]))
    make_wheel(index, "ink", "0.5", f"Requires-Python: !={HERE}.0,<={this}")
    assert wheels.main({}, kit) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "needs Python" in line]
    assert [line.split()[:4] for line in told] == [["ink", "0.5", "needs", "Python"]]
    with pytest.raises(SettingError, match=r"no wheel of ink for Python 3\.98 on this machine\."):
        wheels.main({"PYTHONS": "3.98"}, kit)


def test_for_this_machine_too_the_wheel_for_older_systems_is_taken(
    kit: Path, index: Path
) -> None:
    names_here = wheels._names_here()
    (index / "ink-0.5-py3-none-any.whl").unlink()
    newest = next(iter(wheels.tags.platform_tags()))
    assert newest in names_here
    make_wheel(index, "ink", "0.5", tag=f"py3-none-{newest}")
    oldest = make_wheel(index, "ink", "0.5", tag=f"py3-none-{names_here[0]}")
    assert wheels.main({}, kit) == 0
    assert [p.name for p in (kit / ".wheelhouse").glob("ink-*")] == [oldest.name]


def test_a_missing_wheel_is_named_and_the_others_are_kept(kit: Path, index: Path) -> None:
    (index / "ink-0.5-py3-none-any.whl").unlink()
    make_wheel(index, "ink", "0.5", tag=f"py3-none-{next(iter(wheels.tags.platform_tags()))}")
    with pytest.raises(SettingError) as told:
        wheels.main({"PLATFORMS": "macosx_12_0_arm64", "PYTHONS": "3.13"}, kit)
    assert str(told.value).splitlines() == [
        "There is no wheel of ink for Python 3.13 on macosx_12_0_arm64.",
        "All others are in .wheelhouse, and are kept.",
    ]
    assert names(kit) == {*here(), "apple-3.0"}


# What cannot be done


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PYTHONS": "3.10"}, "PYTHONS=3.10 is too old: the kit needs Python >=3.11."),
        ({"PYTHONS": "3.12 3.12.1"}, "PYTHONS=3.12.1 is no version of Python, as 3.12 is."),
        ({"PYTHONS": "new"}, "PYTHONS=new is no version of Python, as 3.12 is."),
        ({"PLATFORMS": "beos"}, "PLATFORMS=beos is no platform that is known here"),
        ({"PLATFORMS": "win_amd64"}, "on Windows the kit runs inside WSL"),
    ],
)
def test_settings_that_cannot_be_used(
    kit: Path, index: Path, env: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingError) as told:
        wheels.main(env, kit)
    assert said in str(told.value)
    assert not (kit / ".wheelhouse").exists()


def test_a_pin_that_breaks_a_dependency_is_named(kit: Path, index: Path) -> None:
    make_wheel(index, "ink", "0.5", "tiny >=1.1")
    with pytest.raises(SettingError) as told:
        wheels.main({}, kit)
    assert str(told.value) == "ink needs tiny>=1.1, but graders/constraints.txt leads to 1.0."


def test_a_network_that_is_down_is_told_as_such(
    kit: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(SettingError, match="The packages could not be downloaded"):
        wheels.main({}, kit)
    assert names(kit) == set()


def test_two_at_once_are_one_too_many(kit: Path, index: Path) -> None:
    with wheels._alone(kit / ".wheelhouse"), pytest.raises(SettingError, match="is under way"):
        wheels.main({}, kit)


def test_a_file_where_the_folder_should_be_is_told(kit: Path, index: Path) -> None:
    (kit / ".wheelhouse").touch()
    with pytest.raises(SettingError, match=r"\.wheelhouse cannot be made"):
        wheels.main({}, kit)


# Names


def test_platforms_are_named_with_the_oldest_systems_first() -> None:
    linux = wheels.platform("linux-x86_64").for_pip
    assert linux.index("manylinux1_x86_64") < linux.index("manylinux2014_x86_64")
    assert linux.index("manylinux2014_x86_64") < linux.index("manylinux_2_28_x86_64")
    assert wheels.platform("manylinux_2_17_aarch64").for_pip[-1] == "manylinux_2_17_aarch64"
    assert wheels.platform("macosx_13_0_arm64").for_pip == [
        "macosx_11_0_arm64", "macosx_12_0_arm64", "macosx_13_0_arm64"
    ]  # fmt: skip
    assert "macosx_10_9_universal2" in wheels.platform("macos-x86_64").for_tags
    assert wheels.platform("musllinux_1_2_x86_64").for_pip == [
        "musllinux_1_0_x86_64", "musllinux_1_1_x86_64", "musllinux_1_2_x86_64"
    ]  # fmt: skip


def test_targets_are_this_machine_and_each_python_on_each_platform() -> None:
    assert list(map(str, wheels.targets({}, LEAST))) == [f"Python {HERE} on this machine"]
    asked = wheels.targets({"PLATFORMS": "macos-arm64,linux-amd64", "PYTHONS": "3.11\t3.14"}, LEAST)
    assert list(map(str, asked)) == [
        f"Python {HERE} on this machine",
        "Python 3.11 on macos-arm64", "Python 3.14 on macos-arm64",
        "Python 3.11 on linux-x86_64", "Python 3.14 on linux-x86_64",
    ]  # fmt: skip


def test_the_kits_own_files_can_be_read() -> None:
    needs = wheels.Needs.read(ROOT)
    assert {"pytest", "psycopg", "jupyter"} <= {each.name for each in needs.roots}
    assert "ruff" not in {each.name for each in needs.roots}
    environments = wheels.Target((3, 13), wheels.platform("macos-arm64")).environments()
    for each in needs.roots:
        assert wheels._pinned(needs.pin(wheels.canonicalize_name(each.name), environments))
