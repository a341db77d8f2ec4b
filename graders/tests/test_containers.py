"""Whole grading runs on containers: the reference, a wrong worker, an engine that goes away."""

from __future__ import annotations

from pathlib import Path

import pytest

from graders.harness import mutants, results, settings
from graders.harness.catalog import grade_folder
from graders.harness.check import Finding, check
from graders.harness.prove import judge_mutant, judge_right
from graders.harness.servers import containers
from graders.harness.session import GradingSession, Options

LAB = settings.lab("lab03")
REFERENCE = settings.ROOT / "solutions" / "lab03"

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(autouse=True)
def _on_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICES", "containers")


def test_the_reference_has_full_marks_on_containers() -> None:
    result = grade_folder(LAB, REFERENCE)
    assert judge_right(result) == []
    assert result.earned == 100
    assert result.services["postgres"].startswith("containers")


def test_a_wrong_worker_is_caught_on_containers(tmp_path: Path) -> None:
    wrong = next(each for each in mutants.mutants(LAB) if each.name == "select_then_update")
    result = grade_folder(LAB, mutants.make(LAB, wrong, tmp_path / "wrong"), wrong.caught_by)
    assert judge_mutant(result, wrong, whole=False) == []


def test_a_container_that_goes_away_is_no_fault_of_the_worker() -> None:
    @check("3a", points=1)
    def test_loses_its_container(lab) -> None:
        """Its container is removed in the middle."""
        lab.start_worker()
        run = lab.session.run_dir.name
        with containers._client() as client:
            for each in client.containers.list(
                filters={"label": containers.LABEL}, ignore_removed=True
            ):
                if run in each.labels[containers.LABEL]:
                    each.remove(force=True)
        raise Finding("worker-exited", "It lives on.", "It ended.")

    declared = test_loses_its_container.declared
    options = Options.read(LAB="03", SRC=str(REFERENCE), SERVICES="containers")
    session = GradingSession("lab03", {declared.name: declared}, options)
    session.start()
    verdict = session.result_of(declared.name).verdict
    session.finish()
    assert verdict == results.COULD_NOT_GRADE

