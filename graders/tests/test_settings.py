"""Names of labs, the variables of the Makefile, and what is said about bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from graders.harness import settings
from graders.harness.settings import SettingError


@pytest.mark.parametrize("text", ["3", "03", "lab3", "lab03", "LAB03", "Lab-03", " 03 ", "003"])
def test_a_lab_has_one_name_in_all_its_spellings(text: str) -> None:
    assert settings.lab_name(text) == "lab03"


@pytest.mark.parametrize("text", ["99", "0", "three", "../lab03", "3a", "3.0", "-3-", ""])
def test_an_unknown_lab_lists_the_labs(text: str) -> None:
    with pytest.raises(SettingError, match="LAB=03  The PostgreSQL worker"):
        settings.lab_name(text)


def test_a_lab_knows_its_rooms() -> None:
    lab = settings.lab("3")
    assert lab.number == "03"
    assert list(lab.exercises) == ["3a", "3b", "3c", "3d"]
    assert lab.services == ("postgres",)
    assert "CREATE TABLE tasks" in lab.schema_sql
    assert lab.starter == settings.ROOT / "starter" / "lab03"


def test_nothing_set_means_the_defaults() -> None:
    chosen = settings.read({"LAB": "", "CHECK": " ", "SERVICES": "", "PATIENCE": "", "RUNS": ""})
    assert chosen == settings.Settings()


def test_what_is_set_is_read() -> None:
    chosen = settings.read({
        "LAB": "3", "SRC": " a b ", "CHECK": "one, two", "SERVICES": "Embedded", "PATIENCE": "2.5",
        "RUNS": "20", "VERBOSE": "1", "N": "4", "STEP": "7b", "PORT": "8080",
    })
    assert chosen.the_lab.name == "lab03"
    assert chosen.src == Path(" a b ")
    assert chosen.checks == ("one", "two")
    assert (chosen.services, chosen.patience, chosen.runs) == ("embedded", 2.5, 20)
    assert (chosen.verbose, chosen.n, chosen.step, chosen.port) == (True, 4, "7b", 8080)


@pytest.mark.parametrize("value", ["0", "no", "false", "OFF", ""])
def test_verbose_can_be_switched_off(value: str) -> None:
    assert not settings.read({"VERBOSE": value}).verbose


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICES", "podman"), ("PATIENCE", "much"), ("PATIENCE", "0"), ("PATIENCE", "nan"),
        ("PATIENCE", "inf"), ("RUNS", "0"), ("RUNS", "2.5"), ("N", "-1"), ("N", "1e3"),
        ("PORT", "70000"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_it(name: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings.read({name: value})
    said = str(caught.value)
    assert said.startswith(f"{name}={value} ")
    assert "\n" not in said


def test_a_submission_is_the_starter_or_src(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    assert settings.read({"SRC": str(folder)}).submission == folder
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingError, match="is a file"):
        _ = settings.read({"SRC": str(file)}).submission
    with pytest.raises(SettingError, match="There is no folder SRC="):
        _ = settings.read({"SRC": str(tmp_path / "none")}).submission
    with pytest.raises(SettingError, match="Say which lab"):
        _ = settings.read({}).submission


def test_the_starter_is_named_as_a_user_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(settings.ROOT)
    assert settings.read({"LAB": "3"}).submission == Path("starter/lab03")
    monkeypatch.chdir(tmp_path)
    assert settings.read({"LAB": "3"}).submission == settings.ROOT / "starter" / "lab03"


def test_a_moment_is_a_number_and_perhaps_a_letter() -> None:
    assert settings.read({"STEP": "7b"}).step == "7b"
    with pytest.raises(settings.SettingError, match="STEP=b7 names no moment"):
        settings.read({"STEP": "b7"})
