"""The graders graded: wrong workers are caught for the right reason, right ones pass.

What is quick comes first: that every mutant fits the reference, and that the list is whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from graders.harness import mutants, settings
from graders.harness.catalog import checks_of, grade_folder, standing_servers
from graders.harness.check import CODES
from graders.harness.prove import judge_right, judge_starter, prove_mutant, prove_variant
from graders.harness.servers import Services

LABS = settings.labs()
MUTANTS = {lab.name: mutants.mutants(lab) for lab in LABS}

# Codes that no edit of a reference leads to on every run; those of images are in test_image.py.
WITHOUT_A_MUTANT: set[str] = {"image-not-built"}

each_lab = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
each_mutant = pytest.mark.parametrize(
    ("lab", "mutant"), [(lab, each) for lab in LABS for each in MUTANTS[lab.name]],
    ids=lambda each: each.name,
)
each_variant = pytest.mark.parametrize(
    ("lab", "variant"), [(lab, each) for lab in LABS for each in mutants.variants(lab)],
    ids=lambda each: each.name,
)


@pytest.fixture(scope="session")
def standing() -> Iterator[Services]:
    """Servers that all gradings of wrong workers share: to start some takes longer than many do."""
    with standing_servers({"postgres", "redis"}) as services:
        yield services


@each_mutant
def test_a_mutant_fits_the_reference(
    lab: settings.Lab, mutant: mutants.Mutant, tmp_path: Path
) -> None:
    made = mutants.make(lab, mutant, tmp_path / mutant.name)
    for edit in mutant.edits:
        assert edit.text != edit.replacement
        assert edit.replacement in (made / edit.file).read_text(encoding="utf-8")


@each_lab
def test_names_of_mutants_are_unique(lab: settings.Lab) -> None:
    counted = Counter(mutant.name for mutant in MUTANTS[lab.name])
    assert [name for name, count in counted.items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in counted)


@each_lab
def test_no_two_mutants_are_the_same_worker(lab: settings.Lab) -> None:
    counted = Counter(mutant.edits for mutant in MUTANTS[lab.name])
    assert [edits for edits, count in counted.items() if count > 1] == []


@each_lab
def test_mutants_name_checks_and_codes_that_exist(lab: settings.Lab) -> None:
    checks = checks_of(lab)
    for mutant in MUTANTS[lab.name]:
        assert mutant.caught_by, mutant.name
        assert set(mutant.caught_by) <= set(checks), mutant.name
        assert set(mutant.caught_by.values()) <= set(CODES), mutant.name
        assert set(mutant.may_fail) <= set(checks) - set(mutant.caught_by), mutant.name


@each_lab
def test_mutants_say_what_they_are(lab: settings.Lab) -> None:
    for mutant in MUTANTS[lab.name]:
        assert mutant.about.endswith("."), mutant.name
        assert re.fullmatch(r"([A-G]\d\d)?", mutant.bug), mutant.name
        assert re.fullmatch(r"(https://\S+)?", mutant.report), mutant.name


@each_lab
def test_each_check_has_a_mutant_that_it_is_the_first_to_catch(lab: settings.Lab) -> None:
    checks = list(checks_of(lab))
    caught = [mutant.caught_by for mutant in MUTANTS[lab.name]]
    first = {min(by, key=checks.index) for by in caught}
    alone = {name for by in caught if len(by) == 1 for name in by}
    # One that only shows something fails nobody.
    scored = [name for name, check in checks_of(lab).items() if check.points]
    assert [name for name in scored if name not in first | alone] == []


def test_each_code_has_a_mutant() -> None:
    found = {code for each in MUTANTS.values() for mutant in each
             for code in mutant.caught_by.values()}
    assert set(CODES) - found == WITHOUT_A_MUTANT


@each_lab
def test_each_variant_names_checks_that_exist(lab: settings.Lab) -> None:
    checks = checks_of(lab)
    for variant in mutants.variants(lab):
        assert set(variant.expect_lost) <= set(checks), variant.name


@each_lab
def test_the_reference_has_all_points(lab: settings.Lab) -> None:
    result = grade_folder(lab, settings.ROOT / "solutions" / lab.name)
    assert judge_right(result) == []
    assert (result.earned, result.points) == (100, 100)


@each_lab
def test_the_starter_passes_nothing_and_breaks_nothing(lab: settings.Lab) -> None:
    result = grade_folder(lab, settings.ROOT / "starter" / lab.name)
    assert judge_starter(result) == []
    assert (result.earned, result.points) == (0, 100)


@each_mutant
def test_a_mutant_is_caught(
    lab: settings.Lab, mutant: mutants.Mutant, standing: Services
) -> None:
    assert prove_mutant(lab, mutant, False, standing).problems == ()


@each_variant
def test_a_right_worker_passes(
    lab: settings.Lab, variant: mutants.Variant, standing: Services
) -> None:
    assert prove_variant(lab, variant, standing).problems == ()
