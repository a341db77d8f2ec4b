"""`make prove`: the graders proved. Every wrong worker is caught for the right reason, every right
one passes; the outcome is a matrix of workers by checks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from graders.harness import mutants, results, settings
from graders.harness.catalog import checks_of, grade_folder, standing_servers
from graders.harness.results import LabResult
from graders.harness.servers import Services

MARKS = {
    results.PASSED: ".",
    results.FAILED: "X",
    results.NOT_CHECKED: "-",
    results.COULD_NOT_GRADE: "?",
}


@dataclass(frozen=True)
class Proof:
    """One worker's verdicts, and what is wrong with them (nothing, if `problems` is empty)."""

    name: str
    kind: str  # reference, starter, mutant or variant
    result: LabResult
    problems: tuple[str, ...]


def judge_right(result: LabResult, expect_lost: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with the verdicts of a right worker."""
    problems = []
    for check in result.checks:
        if check.name in expect_lost:
            if check.verdict != results.FAILED:
                problems.append(f"{check.name}: {check.verdict}, expected to be lost")
        elif check.verdict != results.PASSED:
            problems.append(f"{check.name}: {check.verdict}{_why(check)}")
    return problems


def judge_mutant(
    result: LabResult, mutant: mutants.Mutant, whole: bool, explorations: Container[str] = ()
) -> list[str]:
    """What is wrong with the verdicts of a wrong worker.

    With `whole` all checks were run: then no other check may fail either, save `explorations`. They
    look at every moment, so they may come upon any bug; where it is one of them that catches a
    worker, it is named.
    """
    problems = []
    by_name = {check.name: check for check in result.checks}
    for name, code in mutant.caught_by.items():
        check = by_name.get(name)
        if check is None:
            problems.append(f"{name}: there is no such check")
        elif check.verdict != results.FAILED:
            problems.append(f"{name}: {check.verdict}{_why(check)}, expected to catch it")
        elif check.finding.code != code:
            problems.append(f"{name}: found {check.finding.code}, expected {code}")
    for check in result.checks:
        named = (check.name in (*mutant.caught_by, *mutant.may_fail)
                 or check.name in explorations)
        if check.verdict == results.COULD_NOT_GRADE:
            problems.append(f"{check.name}: could not grade: {check.reason}")
        elif whole and check.verdict == results.FAILED and not named:
            problems.append(f"{check.name}: failed too{_why(check)}")
    return problems


def judge_starter(result: LabResult) -> list[str]:
    """What is wrong with the verdicts of the starter: it fails every check and breaks none."""
    bad = (results.PASSED, results.COULD_NOT_GRADE)
    return [
        f"{check.name}: {check.verdict}{_why(check)}"
        for check in result.checks
        if check.verdict in bad
    ]


def prove_mutant(
    lab: settings.Lab, mutant: mutants.Mutant, whole: bool, standing: Services | None = None
) -> Proof:
    """Grade one mutant, by all checks, or by those that must catch it and not what they need."""
    with tempfile.TemporaryDirectory(prefix="wl-") as folder:
        made = mutants.make(lab, mutant, Path(folder) / mutant.name)
        only = () if whole else mutant.caught_by
        result = grade_folder(lab, made, only, standing=standing, alone=True)
    explorations = [name for name, check in checks_of(lab).items() if check.explores]
    problems = judge_mutant(result, mutant, whole, explorations)
    return Proof(mutant.name, "mutant", result, tuple(problems))


def prove_variant(
    lab: settings.Lab, variant: mutants.Variant, standing: Services | None = None
) -> Proof:
    """Grade one right worker."""
    with tempfile.TemporaryDirectory(prefix="wl-") as folder:
        made = mutants.make_variant(lab, variant, Path(folder) / variant.name)
        result = grade_folder(lab, made, standing=standing)
    return Proof(variant.name, "variant", result, tuple(judge_right(result, variant.expect_lost)))


def matrix(lab: settings.Lab, proofs: list[Proof]) -> list[str]:
    """The matrix as text: a line per worker, a column per check, numbered below."""
    names = list(checks_of(lab))
    width = max((len(proof.name) for proof in proofs), default=0)
    head = "".join(f"{i % 100:>3}" for i in range(1, len(names) + 1))
    lines = [f"{'':{width}} {head}"]
    for proof in proofs:
        verdicts = {check.name: MARKS[check.verdict] for check in proof.result.checks}
        row = "".join(f"{verdicts.get(name, ' '):>3}" for name in names)
        lines.append(f"{proof.name:{width}} {row}{'   WRONG' if proof.problems else ''}")
    lines.append("")
    lines.append(". passed   X failed   - not checked   ? could not grade")
    lines += [f"{i:>3} {name}" for i, name in enumerate(names, 1)]
    return lines


def main(env: Mapping[str, str]) -> int:
    """Prove the graders of one lab (LAB, by default lab03); 0 if all verdicts are right."""
    lab = settings.lab(env.get("LAB") or "03")
    with standing_servers(lab.services, settings.read(env).services) as standing:
        return _prove(lab, env.get("ONLY", ""), standing)


def _prove(lab: settings.Lab, only: str, standing: Services) -> int:
    proofs: list[Proof] = []

    def add(proof: Proof) -> None:
        proofs.append(proof)
        judged = "WRONG" if proof.problems else "right"
        print(f"{judged:6} {proof.kind:10} {proof.name}", flush=True)
        for problem in proof.problems:
            print(f"         {problem}", flush=True)

    def whole(kind: str, folder: str, judge: Callable[[LabResult], list[str]]) -> None:
        result = grade_folder(lab, settings.ROOT / folder / lab.name, standing=standing)
        add(Proof(kind, kind, result, tuple(judge(result))))

    if not only:
        whole("reference", "solutions", judge_right)
        whole("starter", "starter", judge_starter)
    for variant in mutants.variants(lab):
        if only in variant.name:
            add(prove_variant(lab, variant, standing))
    for mutant in mutants.mutants(lab):
        if only in mutant.name:
            add(prove_mutant(lab, mutant, True, standing))
    lines = matrix(lab, proofs)
    print("\n" + "\n".join(lines))
    lab.reports.mkdir(parents=True, exist_ok=True)
    (lab.reports / "proof.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (lab.reports / "proof.json").write_text(
        json.dumps(
            [
                {
                    "name": proof.name,
                    "kind": proof.kind,
                    "problems": proof.problems,
                    "verdicts": {
                        c.name: c.finding.code if c.finding else c.verdict
                        for c in proof.result.checks
                    },
                }
                for proof in proofs
            ],
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )
    wrong = sum(bool(proof.problems) for proof in proofs)
    print(f"\n{len(proofs)} workers, {wrong} judged wrongly: see reports/{lab.name}/proof.txt")
    return 1 if wrong else 0


def _why(check: results.CheckResult) -> str:
    if check.finding is not None:
        return f" ({check.finding.code}: {check.finding.seen})"
    return f" ({check.reason})" if check.reason else ""
