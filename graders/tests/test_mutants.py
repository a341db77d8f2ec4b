"""The grader of lab 03 graded: wrong workers are caught for the right reason, right ones pass.

What is quick comes first: that every mutant fits the reference, and that the list is whole.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from graders.harness import mutants, settings
from graders.harness.catalog import checks_of, grade_folder
from graders.harness.check import CODES
from graders.harness.prove import judge_right, judge_starter, prove_mutant, prove_variant

LAB = settings.lab("lab03")
MUTANTS = mutants.mutants(LAB)
VARIANTS = mutants.variants(LAB)

# Codes that no edit of the reference leads to on every run.
WITHOUT_A_MUTANT: set[str] = set()

each_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)


@each_mutant
def test_a_mutant_fits_the_reference(mutant: mutants.Mutant, tmp_path: Path) -> None:
    made = mutants.make(LAB, mutant, tmp_path / mutant.name)
    for edit in mutant.edits:
        assert edit.text != edit.replacement
        assert edit.replacement in (made / edit.file).read_text(encoding="utf-8")


def test_names_of_mutants_are_unique() -> None:
    counted = Counter(mutant.name for mutant in MUTANTS)
    assert [name for name, count in counted.items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in counted)


def test_no_two_mutants_are_the_same_worker() -> None:
    counted = Counter(mutant.edits for mutant in MUTANTS)
    assert [edits for edits, count in counted.items() if count > 1] == []


def test_mutants_name_checks_and_codes_that_exist() -> None:
    checks = checks_of(LAB)
    for mutant in MUTANTS:
        assert mutant.caught_by, mutant.name
        assert set(mutant.caught_by) <= set(checks), mutant.name
        assert set(mutant.caught_by.values()) <= set(CODES), mutant.name
        assert set(mutant.may_fail) <= set(checks) - set(mutant.caught_by), mutant.name


def test_mutants_say_what_they_are() -> None:
    for mutant in MUTANTS:
        assert mutant.about.endswith("."), mutant.name
        assert re.fullmatch(r"([A-G]\d\d)?", mutant.bug), mutant.name
        assert re.fullmatch(r"(https://\S+)?", mutant.report), mutant.name


def test_each_check_has_a_mutant_that_it_is_the_first_to_catch() -> None:
    checks = list(checks_of(LAB))
    first = {min(mutant.caught_by, key=checks.index) for mutant in MUTANTS}
    alone = {name for mutant in MUTANTS if len(mutant.caught_by) == 1 for name in mutant.caught_by}
    assert [name for name in checks if name not in first | alone] == []


def test_each_code_has_a_mutant() -> None:
    found = {code for mutant in MUTANTS for code in mutant.caught_by.values()}
    assert set(CODES) - found == WITHOUT_A_MUTANT


def test_each_variant_names_checks_that_exist() -> None:
    checks = checks_of(LAB)
    for variant in VARIANTS:
        assert set(variant.expect_lost) <= set(checks), variant.name


def test_the_reference_has_all_points() -> None:
    result = grade_folder(LAB, settings.ROOT / "solutions" / LAB.name)
    assert judge_right(result) == []
    assert (result.earned, result.points) == (100, 100)


def test_the_starter_passes_nothing_and_breaks_nothing() -> None:
    result = grade_folder(LAB, settings.ROOT / "starter" / LAB.name)
    assert judge_starter(result) == []
    assert (result.earned, result.points) == (0, 100)


@each_mutant
def test_a_mutant_is_caught(mutant: mutants.Mutant) -> None:
    assert prove_mutant(LAB, mutant, whole=False).problems == ()


@each_variant
def test_a_right_worker_passes(variant: mutants.Variant) -> None:
    assert prove_variant(LAB, variant).problems == ()
