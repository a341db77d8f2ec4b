"""hints.md and `make hint`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from graders.harness import hints, settings
from graders.harness.settings import SettingError

HINTS = """\
# Hints

For readers of this file.

## first_check

### 1

A nudge.

### 2

A pointer.

### 3

```sql
## no heading
SELECT 1
```

## second_check
### 1
a
### 2
b
### 3
c
"""


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kit with one lab and hints, in a folder of its own."""
    folder = tmp_path / "labs" / "lab03"
    folder.mkdir(parents=True)
    (folder / "lab.toml").write_text('title = "A lab"\n')
    (folder / "hints.md").write_text(HINTS)
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    return tmp_path


def graded(kit: Path, *verdicts: str) -> None:
    folder = kit / "reports" / "lab03"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("first_check", "second_check")
    checks = [{"name": n, "verdict": v} for n, v in zip(names, verdicts, strict=True)]
    (folder / "results.json").write_text(json.dumps({"checks": checks}))


def test_each_check_has_its_three_hints() -> None:
    found = hints.parse(HINTS)
    assert list(found) == ["first_check", "second_check"]
    code = "```sql\n## no heading\nSELECT 1\n```"
    assert found["first_check"] == ("A nudge.", "A pointer.", code)
    assert found["second_check"] == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("### 1\nx", "before the first check"),
        ("## a\n### 2\nx", "should have hint 1 here"),
        ("## a\n### 1\nx\n### 2\nx", "should have 3 hints"),
        ("## a\n### 1\nx\n### 2\n\n### 3\nx", "none of them empty"),
        ("## a\n### 1\nx\n### 2\nx\n### 3\nx\n## a", "has hints already"),
        ("## a\nstray", "before its first hint"),
    ],
)
def test_a_broken_file_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(hints.HintsError, match=said):
        hints.parse(text)


def test_hints_come_one_by_one_and_then_all(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {"LAB": "3", "CHECK": "second_check"}
    for number, text in ((1, "a"), (2, "b"), (3, "c")):
        assert hints.main(env) == 0
        said = capsys.readouterr().out
        assert f"Hint {number} of 3 for second_check" in said
        assert f"\n  {text}\n" in said
    for _ in range(2):
        hints.main(env)
        said = capsys.readouterr().out
        assert all(f"\n  {text}\n" in said for text in "abc")
    hints.main({"LAB": "3", "CHECK": "test_first_check"})  # as pytest calls it
    assert "Hint 1 of 3 for first_check" in capsys.readouterr().out


def test_without_a_check_it_is_the_first_that_failed(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingError, match="not graded yet"):
        hints.main({"LAB": "3"})
    graded(kit, "passed", "failed")
    hints.main({"LAB": "3"})
    assert "for second_check" in capsys.readouterr().out
    graded(kit, "passed", "passed")
    with pytest.raises(SettingError, match="No check of lab03 failed when you last graded\\."):
        hints.main({"LAB": "3"})
    path = kit / "reports" / "lab03" / "results.json"
    told = json.loads(path.read_text()) | {"submission": "solutions/lab03"}
    path.write_text(json.dumps(told))
    with pytest.raises(SettingError, match="when you last graded solutions/lab03\\. Name one"):
        hints.main({"LAB": "3"})


def test_an_unknown_check_lists_those_alike(kit: Path) -> None:
    with pytest.raises(SettingError, match="Did you mean second_check"):
        hints.main({"LAB": "3", "CHECK": "secnd_check"})


def test_a_spoilt_state_is_no_obstacle(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = settings.state_dir() / hints.STATE
    for spoilt in ("no json", "[]", '{"lab03": 3}', '{"lab03": {"first_check": "x"}}'):
        state.write_text(spoilt)
        hints.main({"LAB": "3", "CHECK": "first_check"})
        assert "Hint 1 of 3" in capsys.readouterr().out


def test_long_hints_fit_the_page(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = kit / "labs" / "lab03" / "hints.md"
    path.write_text(HINTS.replace("A nudge.", "- " + "word " * 60 + "\n- two"))
    hints.main({"LAB": "3", "CHECK": "first_check"})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "  - two" in lines
    hints.main({"LAB": "3", "CHECK": "first_check"})
    capsys.readouterr()
    hints.main({"LAB": "3", "CHECK": "first_check"})
    assert "      SELECT 1" in capsys.readouterr().out


@pytest.mark.parametrize("lab", settings.labs(), ids=lambda lab: lab.name)
def test_the_hints_of_this_kit_are_well_made(lab: settings.Lab) -> None:
    hints.read(lab)


@pytest.mark.parametrize("lab", settings.labs(), ids=lambda lab: lab.name)
def test_every_check_has_hints_and_every_hint_a_check(lab: settings.Lab) -> None:
    source = "\n".join(path.read_text() for path in lab.grader.glob("test_*.py"))
    checks = re.findall(r"^(?:async )?def test_(\w+)\(lab\b", source, re.MULTILINE)
    assert sorted(hints.read(lab)) == sorted(checks)
