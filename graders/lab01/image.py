"""The image, built and run for real where that can be done: by the docker command of this machine.

Nothing is ever pulled. The base image is that of WORKER_LABS_PYTHON_IMAGE (for a Dockerfile with
`ARG BASE`), else those that the Dockerfile names. WORKER_LABS_WHEELS names a folder of wheels for
machines without a network; it is put into the context as `wheels/`, and pip is told by PIP_ARGS.

All that is made carries a label that the keeper knows beforehand, so it is removed whatever ends
the grader. For that, the copy that is built has a LABEL after each FROM: the older of Docker's two
builders keeps what is between as images of their own. (The newer one has a cache, which it tidies
itself.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from graders.harness.check import Finding
from graders.harness.history import CONNECTED, History
from graders.harness.jobs import JobsLab, JobsWorker
from graders.harness.process import Caps, Process
from graders.harness.results import Evidence
from graders.harness.servers import containers
from graders.harness.submission import copy_folder
from graders.lab01.dockerfile import Dockerfile

BASE_SETTING = "WORKER_LABS_PYTHON_IMAGE"
WHEELS_SETTING = "WORKER_LABS_WHEELS"
BUILD_BOUND = 900.0  # seconds, times PATIENCE and how slow this machine is
ASK_BOUND = 60.0  # seconds for a word of the engine
HOST = "host.docker.internal"  # what Docker Desktop calls this machine
NOT_STARTED = (125, 126, 127)  # docker run's own: the program was not started
_IMAGES_FAULT = re.compile(
    r"unable to find user|executable file not found|no such file|permission denied"
    r"|no command specified|exec format error",
    re.IGNORECASE,
)

# What a build says that could not fetch: nothing is wrong with the Dockerfile then.
_NO_NETWORK = re.compile(
    r"name resolution|could not resolve|no such host|network is unreachable|timed out|i/o timeout"
    r"|(?:read|connect)timeout|newconnectionerror|proxyerror|certificate verify failed|x509:"
    r"|failed to fetch|failed to do request|no space left|cannot connect to the docker daemon",
    re.IGNORECASE,
)
_NOT_IN_FOLDER = re.compile(r"no matching distribution|could not find a version", re.IGNORECASE)


class ReadingOnly(Exception):
    """The image cannot be built here, through no fault of its own; the text says why."""


class Engine:
    """The docker command, and what is made with it in one check."""

    def __init__(self, lab: JobsLab) -> None:
        self.lab = lab
        # An image's name has a narrow alphabet; that of temporary folders is wider.
        self.run = secrets.token_hex(8)
        self.label = f"{containers.LABEL}={self.run}"
        program = shutil.which("docker")
        if lab.session.options.services == "embedded":
            raise ReadingOnly("SERVICES=embedded starts no containers")
        # Longer than others ask: where none listens it costs nothing, and this machine is busy now.
        if program is None or not containers.engine_answers(timeout=10.0):
            raise ReadingOnly("no Docker engine answers here")
        self.program = program
        names = ("DOCKER_", "BUILDX_", "XDG_", "SSH_AUTH_SOCK")
        self.environment = lab.session.environment() | {
            name: value for name, value in os.environ.items() if name.startswith(names)
        } | {"BUILDKIT_PROGRESS": "plain"}  # fmt: skip
        self.environment["HOME"] = os.environ.get("HOME", "/")
        # The builder that is in the engine itself, and so knows its images, has the context's name.
        context = self.ask("context", "show").stdout.strip()
        self.environment["BUILDX_BUILDER"] = context or "default"
        told = self.ask("version", "--format", "{{.Server.Os}}")
        if told.returncode != 0:
            raise ReadingOnly("no Docker engine answers here")
        # Docker Desktop's containers run in a machine of their own.
        system = self.ask("info", "--format", "{{.OperatingSystem}}").stdout
        self.is_apart = "Desktop" in system or platform.system() != "Linux"

    def ask(self, *words: str, bound: float = ASK_BOUND) -> subprocess.CompletedProcess[str]:
        """What docker answers; a status that is not 0 if it does not within `bound` seconds."""
        command = [self.program, *words]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=bound,
                stdin=subprocess.DEVNULL, env=self.environment, check=False,
            )  # fmt: skip
        except (subprocess.TimeoutExpired, OSError) as error:
            return subprocess.CompletedProcess(command, -1, "", str(error))

    def start(self, name: str, words: list[str], folder: Path, history: History) -> Process:
        """Start docker with these words as a process that the keeper ends with the run."""
        private = self.lab.session.run_dir / "tmp" / f"{self.run}.{name.replace(' ', '-')}"
        private.mkdir(parents=True, exist_ok=True)
        return Process.start(
            self.lab.session.keeper, self.lab.session.loop, history, name,
            [self.program, *words], {**self.environment, "TMPDIR": str(private)}, folder,
            Caps(memory_bytes=4 << 30, processes=256),
        )  # fmt: skip

    def has_image(self, name: str) -> bool:
        """Whether an image is here."""
        return self.ask("image", "inspect", "--format", "{{.Id}}", name).returncode == 0

    def config(self, image: str) -> dict:
        """What an image of ours says of itself: Config, Size and so on. Raises ReadingOnly."""
        told = self.ask("image", "inspect", image)
        if told.returncode != 0:
            raise ReadingOnly("the Docker engine does not answer any more")
        return json.loads(told.stdout)[0]

    def megabytes(self, image: str) -> str:
        """The size of an image in words."""
        return f"{self.config(image).get('Size', 0) / 1e6:.0f} MB"

    def remove_all(self) -> None:
        """Remove every container and image that carries the label."""
        ours = ("--filter", f"label={self.label}")
        if found := self.ask("ps", "-aq", *ours).stdout.split():
            self.ask("rm", "-f", "-v", *found)
        for _ in range(5):  # an image goes only after those that were built upon it
            found = self.ask("images", "-aq", *ours).stdout.split()
            if not found:
                return
            self.ask("rmi", "-f", *dict.fromkeys(found))


@contextlib.contextmanager
def built(lab: JobsLab, file: Dockerfile) -> Iterator[Image]:
    """Build the submission's image; it is removed at the end. Raises ReadingOnly, Finding."""
    engine = Engine(lab)
    base = os.environ.get(BASE_SETTING, "").strip()
    arguments = {"BASE": base} if base and "BASE" in file.arguments else {}
    file = Dockerfile.read(file.text, arguments)
    missing = [name for name in needed_images(file) if not engine.has_image(name)]
    if missing:
        raise ReadingOnly(f"the image {missing[0]} is not here (docker pull fetches it)")
    if needs_buildkit(file) and engine.ask("buildx", "version").returncode != 0:
        raise ReadingOnly("the Dockerfile needs BuildKit, and docker has no buildx here")
    lab.session.keeper.container(engine.label)
    try:
        yield _build(engine, file, arguments)
    except Finding:
        # A build, and a container, that end with their engine are nobody's fault here.
        if not containers.engine_answers(timeout=10.0):
            raise ReadingOnly("the Docker engine went away meanwhile") from None
        raise
    finally:
        engine.remove_all()


def needed_images(file: Dockerfile) -> list[str]:
    """The images that are not made by the Dockerfile itself."""
    names = [s.image for s in file.stages if s.parent is None and s.image != "scratch"]
    for stage in file.stages:
        for each in stage.own:
            names += [
                name for name in (file.expanded(n, stage, each) for n in each.comes_from)
                if file.stage(name, stage.index) is None
            ]  # fmt: skip
    return list(dict.fromkeys(names))


def needs_buildkit(file: Dockerfile) -> bool:
    """Whether only the newer of Docker's two builders knows what the Dockerfile says."""
    newer = {"mount", "network", "security", "chmod", "link", "parents", "exclude", "checksum",
             "keep-git-dir", "platform"}  # fmt: skip
    every = [*(stage.head for stage in file.stages), *file.instructions]
    return any(each.heredocs or newer & {name for name, _ in each.flags} for each in every)


def _build(engine: Engine, file: Dockerfile, arguments: dict[str, str]) -> Image:
    lab = engine.lab
    folder = lab.session.run_dir / "images" / engine.run
    copy_folder(Path(lab.session.submission.path), folder, lab.session.run_dir)
    offline = _add_wheels(folder, file)
    if offline:
        arguments = {**arguments, "PIP_ARGS": f"--no-index --find-links={offline}"}
    said = ", ".join(f"{name}={value}" for name, value in arguments.items())
    told = "Built the image" + (f" ({said})" if said else "")
    tag = f"worker-labs-{engine.run}"
    lines, status = _run_build(engine, folder, labelled(file, engine.label), arguments, tag)
    if status != 0:
        if any(_NO_NETWORK.search(line) for line in lines):
            raise ReadingOnly("what the build fetches could not be fetched here")
        if offline and any(_NOT_IN_FOLDER.search(line) for line in lines):
            raise ReadingOnly("the folder of wheels lacks a package")
        lab.tell(f"{told}.")
        raise lab.finding(
            "image-not-built", "`docker build` makes an image of the Dockerfile.",
            f"It ended with exit status {status}." if status is not None else
            f"It was still at it after {_bound(lab):.0f} s.",
            Evidence("The last lines of docker build", tuple(lines[-12:])),
        )  # fmt: skip
    size = engine.megabytes(tag)
    # For comparison; what was built already is not built again.
    first = labelled(file, engine.label, _taken_from(file) + 1)
    if _run_build(engine, folder, first, arguments, f"{tag}-first")[1] == 0:
        size += f"; the stage in which it is built has {engine.megabytes(f'{tag}-first')}"
    lab.tell(f"{told}: {size}.")
    lab.remark(f"The image was built. It has {size}.")
    return Image(engine, tag)


def _taken_from(file: Dockerfile) -> int:
    """The number of the stage that the last one takes from first; its own if it takes none."""
    for each in file.last.all:
        for name in each.comes_from:
            if stage := file.stage(file.expanded(name, file.last, each), file.last.index):
                return stage.index
    return file.last.index


def labelled(file: Dockerfile, label: str, stages: int | None = None) -> str:
    """The Dockerfile with a label in each stage, and without a frontend that would be fetched.

    With `stages`, only so many of them.
    """
    lines = file.text.splitlines()
    kept = file.stages[:stages]
    if len(kept) < len(file.stages):
        del lines[file.stages[len(kept)].head.line - 1 :]
    name, _, value = label.partition("=")
    for stage in reversed(kept):
        lines.insert(stage.head.end, f'LABEL {name}="{value}"')
    if "syntax" in file.directives:
        del lines[file.directives["syntax"] - 1]
    return "\n".join(lines) + "\n"


def _add_wheels(folder: Path, file: Dockerfile) -> str:
    """Put wheels into the context, if there are any; where the Dockerfile copies them to."""
    wheels = os.environ.get(WHEELS_SETTING, "").strip()
    given = wheels != "" and Path(wheels).is_dir()
    if not given and not any((folder / "wheels").glob("*.whl")):  # a student's own
        return ""
    place = next(
        (each.words[-1] for each in file.instructions
         if each.name == "COPY" and any(s.strip("./").startswith("wheel") for s in each.takes)),
        "",
    )  # fmt: skip
    if not place.startswith("/"):
        return ""
    if given:
        shutil.copytree(wheels, folder / "wheels", dirs_exist_ok=True)
    for name in (".dockerignore", "Dockerfile.dockerignore"):
        if (folder / name).is_file():
            with (folder / name).open("a", encoding="utf-8") as patterns:
                patterns.write("\n!wheels\n!wheels/**\n")
    return place


def _bound(lab: JobsLab) -> float:
    return BUILD_BOUND * lab.budgets.factor


def _run_build(
    engine: Engine, folder: Path, dockerfile: str, arguments: dict[str, str], tag: str
) -> tuple[list[str], int | None]:
    """What docker build says, and how it ends (None: not in time)."""
    (folder / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    words = ["build", "--force-rm", "--label", engine.label, "--tag", tag, str(folder)]
    words += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    log = History()  # of its own: a build is no part of the story that a timeline tells
    process = engine.start("docker build", words, folder, log)
    try:
        left = _bound(engine.lab)
        while (ended := process.wait_exit(1.0)) is None and left > 0:
            left -= 1.0
            if engine.lab.session.stopping:
                raise ReadingOnly("the run was stopped")
        if process.cap is not None:
            raise ReadingOnly("docker build prints more than is read of it")
        plain = [re.sub(r"\x1b\[[\d;]*m", "", line.text).rstrip() for line in process.lines]
        return [line for line in plain if line], ended.code if ended else None
    finally:
        process.close()
        log.close()


@dataclasses.dataclass(frozen=True)
class Image:
    """An image that was built."""

    engine: Engine
    tag: str

    def start_worker(self) -> ContainerWorker:
        """Run it as it is, behind a proxy to Redis, and wait until it asks for a job."""
        lab = self.engine.lab
        # Docker takes a while to set up a container, and Docker Desktop longer.
        lab.budgets = dataclasses.replace(lab.budgets, boot=3 * lab.budgets.boot)
        worker = ContainerWorker(lab, self)
        lab.workers.append(worker)
        lab.programs.append(worker)
        worker.begin()
        worker.expect_ready()
        lab.tell("Started a container of it; it connected and asked for a job.")
        return worker


class ContainerWorker(JobsWorker):
    """A worker in a container. Its process is `docker run`, which ends as the container does."""

    def __init__(self, lab: JobsLab, image: Image) -> None:
        super().__init__(lab, "container")
        self.image = image
        self.engine = image.engine
        self.container = f"worker-labs-{self.engine.run}"

    def begin(self) -> None:
        """Start it. Does not wait for anything."""
        self.wire, named = self.lab.proxy(self.name)
        variables = {
            **named, "WORKER_ID": "container", "WORK_URL": self.lab.world.url(self.name)
        }  # fmt: skip
        if self.engine.is_apart:
            variables = {n: v.replace("127.0.0.1", HOST) for n, v in variables.items()}
        self.process = self.engine.start(
            self.name,
            ["run", "--rm", "--pull", "never", "--name", self.container,
             "--label", self.engine.label, *self.network,
             *(f"--env={name}={value}" for name, value in variables.items()), self.image.tag],
            self.lab.session.run_dir, self.lab.history,
        )  # fmt: skip

    @property
    def network(self) -> list[str]:
        """How a container reaches what listens on this machine's loopback."""
        return [] if self.engine.is_apart else ["--network", "host"]

    def expect_ready(self) -> None:
        """As of any worker; but a network that is not the image's fault is no finding."""
        self.wait(lambda _: self.connected, self.lab.budgets.boot)
        if not self.connected:
            self._fail_if_not_started()
            if not self.reaches_us():
                raise ReadingOnly("a container does not reach this machine here")
        super().expect_ready()

    @property
    def connected(self) -> bool:
        """Whether it has connected to its proxy."""
        return bool(self.lab.history.events(CONNECTED, who=self.name))

    def _fail_if_not_started(self) -> None:
        ended = self.process.exit
        if ended is None or ended.code not in NOT_STARTED:
            return
        if not any(_IMAGES_FAULT.search(line) for line in self.lines):
            raise ReadingOnly("docker run does not work here")
        raise self.lab.finding(
            "image-not-started", "A container of the image can be started.",
            f"It could not: docker run ended with exit status {ended.code}.", self.log_evidence(),
        )  # fmt: skip

    def reaches_us(self) -> bool:
        """Whether a container of the image can connect to the proxy at all; its Python tries."""
        host = HOST if self.engine.is_apart else "127.0.0.1"
        code = f"import socket; socket.create_connection(({host!r}, {self.wire.port}), 10)"
        return any(
            self.engine.ask(
                "run", "--rm", "--pull", "never", "--label", self.engine.label, *self.network,
                "--entrypoint", python, self.image.tag, "-c", code,
            ).returncode == 0
            for python in ("python", "python3")
        )  # fmt: skip

    def users(self) -> list[str]:
        """Whose its processes are, as the engine shows them: names, or numbers."""
        lines = self.engine.ask("top", self.container).stdout.splitlines()
        seen = [line.split()[0] for line in lines[1:] if line.split()]
        return seen or [self.engine.config(self.image.tag)["Config"].get("User") or "root"]

    def terminate(self) -> None:
        """Send it the signal that `docker stop` sends first; return once it was sent."""
        signal = self.engine.config(self.image.tag)["Config"].get("StopSignal") or "SIGTERM"
        self._stopping = True
        self.lab.tell(f"Sent {signal} to the container, as docker stop does.")
        self.engine.ask("kill", "--signal", signal, self.container)

    def close(self) -> None:
        if self.alive:
            self.engine.ask("rm", "-f", "-v", self.container)
        super().close()
