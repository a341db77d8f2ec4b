"""Lab 01's image, built and run for real on a Docker engine; and nothing is left of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from graders.harness import mutants, results, settings
from graders.harness.catalog import grade_folder
from graders.harness.keeper import Keeper
from graders.harness.results import CheckResult
from graders.harness.servers import containers
from graders.lab01 import image
from graders.lab01.image import BASE_SETTING, WHEELS_SETTING
from graders.tests.conftest import BASE_IMAGE

LAB = settings.lab("lab01")
CHECK = "works_as_an_image"
REFERENCE = settings.ROOT / "solutions" / "lab01"
# What redis needs on Debian's Python 3.11.2, and on none of those that the official images have.
MORE = "async-timeout==5.0.1"


def docker(*words: str) -> str:
    """What docker prints."""
    return subprocess.run(
        ["docker", *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def base() -> str:
    """The base image; where containers are required, its lack is a failure."""
    lack = ""
    if shutil.which("docker") is None or not containers.engine_answers(timeout=10.0):
        lack = "no Docker engine answers, or there is no docker command"
    elif subprocess.run(["docker", "image", "inspect", BASE_IMAGE], capture_output=True).returncode:
        lack = f"no image {BASE_IMAGE}"
    if lack and os.environ.get("WORKER_LABS_REQUIRE_CONTAINERS") == "1":
        pytest.fail(lack)
    if lack:
        pytest.skip(lack)
    return BASE_IMAGE


@pytest.fixture(scope="module")
def wheels(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the reference and the variants, for the base image's Python.

    Containers may have no network; a grading never fetches anything by itself.
    """
    version = docker("run", "--rm", "--entrypoint", "python", base, "-c",
                     "import sys; print('%d.%d' % sys.version_info[:2])")  # fmt: skip
    folder = tmp_path_factory.mktemp("wheels")
    lists = [REFERENCE / "requirements.txt", *LAB.grader.glob("variants/*/requirements.txt")]
    for number, path in enumerate(lists):
        names = [line.partition("\\")[0].partition("#")[0].partition(";")[0].strip()
                 for line in path.read_text().splitlines()]  # fmt: skip
        plain = tmp_path_factory.getbasetemp() / f"list-{number}.txt"
        plain.write_text("\n".join(n for n in [*names, MORE] if n[:1].isalpha()) + "\n")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--dest", folder,
             "--only-binary=:all:", "--python-version", version, "-r", plain],
            check=True,
        )  # fmt: skip
    return folder


@pytest.fixture
def by_itself(monkeypatch: pytest.MonkeyPatch, base: str, wheels: Path) -> Iterator[None]:
    """The engine is used and the packages come from the folder; nothing is left afterwards."""
    monkeypatch.setenv("SERVICES", "auto")
    monkeypatch.setenv(BASE_SETTING, base)
    monkeypatch.setenv(WHEELS_SETTING, str(wheels))
    labels: list[str] = []
    told = Keeper.container

    def container(keeper: Keeper, label: str) -> None:
        labels.append(label)
        told(keeper, label)

    monkeypatch.setattr(Keeper, "container", container)
    yield
    assert all(map(is_gone, labels))


def is_gone(label: str) -> bool:
    """Whether there is neither an image nor a container with this label."""
    ours = ("--filter", f"label={label}")
    return not docker("images", "-aq", *ours) and not docker("ps", "-aq", *ours)


def grade(folder: Path) -> CheckResult:
    """The result of the check."""
    graded = grade_folder(LAB, folder, [CHECK])
    return next(check for check in graded.checks if check.name == CHECK)


def code(check: CheckResult) -> str:
    """What it found; its verdict if it found nothing."""
    return check.finding.code if check.finding else check.verdict


def variant(name: str, to: Path) -> Path:
    """The folder of a right submission that is written differently."""
    found = next(each for each in mutants.variants(LAB) if each.name == name)
    return mutants.make_variant(LAB, found, to / name)


def changed(to: Path, *edits: tuple[str, str]) -> Path:
    """A submission with another Dockerfile; of a variant, which is built more quickly."""
    folder = variant("http_server", to)
    text = (folder / "Dockerfile").read_text()
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "Dockerfile").write_text(text)
    return folder


@pytest.mark.usefixtures("by_itself")
def test_the_reference_works_as_an_image() -> None:
    check = grade(REFERENCE)
    assert code(check) == results.PASSED
    told = "\n".join(check.steps)
    assert "Built the image" in told
    assert " MB; the stage in which it is built has " in told
    assert "Sent SIGTERM to the container" in told
    assert "reading only" not in told


@pytest.mark.usefixtures("by_itself")
@pytest.mark.parametrize("name", ["http_server", "starlette_api"])
def test_other_images_work_too(tmp_path: Path, name: str) -> None:
    check = grade(variant(name, tmp_path))
    assert code(check) == results.PASSED, check.finding and check.finding.evidence
    assert "reading only" not in " ".join(check.steps)


USER = "user ${APP_UID:-1000}\n"
START = 'entrypoint ["python", "-m"]\ncmd ["worker"]\n'


@pytest.mark.usefixtures("by_itself")
@pytest.mark.parametrize(
    ("edits", "found"),
    [
        ([(USER, "")], "runs-as-root"),
        ([(START, 'CMD ["sh", "-c", "python -m worker; echo stopped"]\n')], "still-running"),
        ([(START, 'CMD ["sh", "-c", "python -m worker & exec sleep 999"]\n')], "still-running"),
        ([(USER, "USER nosuchuser\n")], "image-not-started"),
        ([(START, 'CMD ["pyhton", "-m", "worker"]\n')], "image-not-started"),
        ([("Procfile *.py ./", "Procfile ./")], "image-not-started"),
        ([(START, 'CMD ["python", "-c", "raise SystemExit(3)"]\n')], "worker-exited"),
        ([("run python -m pip install", "run python -m pipp install")], "image-not-built"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_an_image_is_found(
    tmp_path: Path, edits: list[tuple[str, str]], found: str
) -> None:
    check = grade(changed(tmp_path, *edits))
    assert code(check) == found, (check.reason, check.finding, check.steps)


@pytest.mark.usefixtures("by_itself")
@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ([("from ${BASE} as image", "from nowhere/python:0 as image")], "python:0 is not here"),
        ([("--require-hashes", "no-such-package==1")], "lacks a package"),
    ],
    ids=["no image", "no wheel"],
)
def test_what_is_not_the_image_s_fault_is_no_finding(
    tmp_path: Path, edits: list[tuple[str, str]], told: str
) -> None:
    check = grade(changed(tmp_path, *edits))
    assert code(check) == results.PASSED
    assert told in check.steps[-1]
    assert check.steps[-1].endswith(": the image was checked by reading only.")


def test_without_containers_it_is_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICES", "embedded")
    check = grade(REFERENCE)
    assert code(check) == results.PASSED
    assert check.steps[-1] == (
        "SERVICES=embedded starts no containers: the image was checked by reading only."
    )


def test_the_keeper_removes_images_too(base: str, tmp_path: Path) -> None:
    label = f"{containers.LABEL}=test-{os.getpid()}"
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base} AS one\nLABEL {label}\nRUN echo one >/one\n"
        f"FROM {base}\nLABEL {label}\nCOPY --from=one /one /one\nRUN echo two >/two\n"
    )
    with Keeper.start() as keeper:
        keeper.container(label)
        docker("build", "-q", "--force-rm", "--label", label, str(tmp_path))
        docker("create", "--label", label, base, "true")
        assert not is_gone(label)
    assert is_gone(label)


@pytest.mark.usefixtures("by_itself")
def test_an_engine_that_goes_away_is_nobody_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True])  # when it is looked for, and not when the build has failed
    monkeypatch.setattr(image, "containers", SimpleNamespace(
        LABEL=containers.LABEL, engine_answers=lambda timeout: next(answers, False)
    ))  # fmt: skip
    check = grade(changed(tmp_path, ("run python -m pip install", "run python -m pipp install")))
    assert code(check) == results.PASSED, (check.reason, check.finding)
    assert "went away" in check.steps[-1]
