"""Exercise 1c: the image. What a Dockerfile says is read; what it makes is tried where it can be.

No check judges a text where an outcome can be judged: patterns by what they leave out, COPY by what
it brings, a command by what becomes process 1.
"""

from __future__ import annotations

from pathlib import Path

from graders.harness.check import check
from graders.harness.results import Evidence
from graders.lab01 import brought, image, pins
from graders.lab01.reading import is_root, numbered, read_recipe
from graders.lab01.signals import shell_between, started

ENVIRONMENTS = (".venv", "venv", "env", "virtualenv", ".virtualenv")


@check("1c", points=2)
def test_pins_its_dependencies(lab):
    """Every package is listed with its exact version.

    Without it, what is installed next month is not what was tried today, and nobody has changed
    anything.
    """
    folder = Path(lab.session.submission.path)
    locks = [name for name in pins.LOCK_FILES if (folder / name).is_file()]
    expected = f"{pins.MANIFEST} lists the packages, each with its exact version (name==version)."
    if (folder / pins.MANIFEST).is_file():
        lab.tell(f"Read {pins.MANIFEST}.")
        try:
            every, bad = list(pins.entries(folder, pins.MANIFEST)), pins.unpinned(folder)
        except OSError as error:
            raise lab.finding(
                "dependencies-not-pinned", expected,
                f"It names {error.filename or 'a list'}, which cannot be read.",
            ) from None  # fmt: skip
        if not every:
            raise lab.finding("dependencies-not-pinned", expected, "It lists none.")
        if bad:
            first = bad[0]
            raise lab.finding(
                "dependencies-not-pinned", expected,
                f"{first.file}, line {first.line}, leaves the version of “{first.text}” open.",
                Evidence("Without an exact version", tuple(each.text for each in bad)),
            )  # fmt: skip
    elif locks:
        lab.tell(f"Saw {locks[0]}, in which every version is exact.")
    else:
        raise lab.finding(
            "dependencies-not-pinned", expected, f"There is no {pins.MANIFEST} in the folder."
        )
    if not (folder / "Dockerfile").is_file():
        return  # other checks say so
    recipe = read_recipe(lab)
    for stage in recipe.file.stages:
        for run, install in recipe.installs(stage):
            if loose := [text for text in install.packages if not pins.is_exact(text)]:
                raise lab.finding(
                    "dependencies-not-pinned",
                    "What the Dockerfile itself names has its exact version, too.",
                    f"Line {run.line} leaves the version of “{loose[0]}” open.",
                    numbered(run),
                )


@check("1c", points=3)
def test_builds_in_two_stages(lab):
    """The image is built in stages, and the last one takes only what the programs need.

    Compilers, caches and headers are needed for an hour and shipped for years, with every bug that
    is found in them.
    """
    recipe = read_recipe(lab)
    file, last = recipe.file, recipe.file.last
    expected = "A first stage builds, and the last one copies from it what it needs."
    if len(file.stages) < 2:
        raise lab.finding("single-stage", expected, "There is one FROM, so there is one stage.",
                          numbered(last.head))  # fmt: skip
    named = [(each, name) for each in last.all for name in each.comes_from]
    if not any(file.stage(file.expanded(name, last, each), last.index) for each, name in named):
        raise lab.finding(
            "single-stage", expected,
            "The last stage takes nothing from an earlier one (COPY --from=…).",
            numbered(*(stage.head for stage in file.stages), *(each for each, _ in named)),
        )  # fmt: skip
    for each in last.all:
        theirs = each.name == "COPY" and each.flag("from") and each.words[:-1]
        if theirs and any(word.strip("./") == "" and word.startswith("/") for word in theirs):
            raise lab.finding(
                "single-stage", expected,
                f"Line {each.line} takes everything that is in the other stage.", numbered(each),
            )  # fmt: skip
    expected = "Packages are built and fetched in an earlier stage than the last."
    for run, install in recipe.installs(last):
        if install.fetches:
            raise lab.finding(
                "built-in-the-last-stage", expected,
                f"Line {run.line}, in the last stage, does so: {install.shown}", numbered(run),
            )  # fmt: skip
    for run, name in recipe.compilers(last):
        raise lab.finding(
            "built-in-the-last-stage", expected,
            f"Line {run.line}, in the last stage, brings or uses {name}, which is for building.",
            numbered(run),
        )


@check("1c", points=2)
def test_copies_dependencies_before_the_code(lab):
    """The packages are installed before the code is copied.

    Docker builds a layer anew when anything before it has changed. Code changes ten times a day,
    packages once a month.
    """
    recipe = read_recipe(lab)
    every = [(stage, run, install) for stage in recipe.file.stages
             for run, install in recipe.installs(stage)]  # fmt: skip
    # Who installs the program itself as a package (pip install .) may get its packages by that.
    installing = [one for one in every if one[2].dependencies] or [
        one for one in every if one[2].local
    ]
    if not installing:
        raise lab.finding(
            "dependencies-not-installed", "A RUN of the Dockerfile installs the packages.",
            "There is none that calls pip, or another installer that the grader knows.",
            numbered(*(each for each in recipe.file.instructions if each.name == "RUN")),
        )  # fmt: skip
    for stage, run, _ in installing:
        for each in stage.all[: stage.all.index(run) + 1]:
            code = recipe.context.code(recipe.takes(stage, each))
            if not code:
                continue
            brings = "mounts" if each is run else f"line {each.line} brings"
            more = f" and {len(code) - 1} more" if len(code) > 1 else ""
            raise lab.finding(
                "code-before-dependencies",
                "The RUN that installs the packages comes before the COPY that brings the code.",
                f"Line {run.line} installs them, and {brings} {code[0]}{more}"
                f"{'' if each is run else ' before that'}.",
                numbered(*dict.fromkeys((each, run))),
            )


@check("1c", points=3)
def test_runs_as_an_ordinary_user(lab):
    """The program runs as an ordinary user, and not as root.

    Root in a container is root outside as soon as one thing goes wrong, and whoever breaks into the
    program can change it.
    """
    recipe = read_recipe(lab)
    user, told = recipe.user()
    expected = "The last USER of the last stage is an ordinary user."
    if told is None and not user:
        earlier = [each for each in recipe.file.instructions if each.name == "USER"]
        raise lab.finding(
            "runs-as-root", expected,
            "The last stage has no USER, so its program runs as root"
            + (" (a USER holds in its own stage only)." if earlier else "."),
            numbered(*earlier),
        )  # fmt: skip
    if is_root(user):
        what = f"“{user}”, which is root" if user else "empty, which leaves it root"
        raise lab.finding("runs-as-root", expected, f"Line {told.line}: it is {what}.",
                          numbered(told))  # fmt: skip


@check("1c", points=3)
def test_gets_signals_itself(lab):
    """The program is process 1 of its container, so SIGTERM reaches it.

    A shell in between gets the signal and keeps it. After ten seconds Docker kills everything, in
    the middle of whatever it was doing.
    """
    recipe = read_recipe(lab)
    words, told = started(recipe.file)
    if not words:
        raise lab.finding(
            "no-command", "CMD or ENTRYPOINT of the last stage says what is started.",
            "There is neither.", numbered(recipe.file.last.head),
        )  # fmt: skip
    between = shell_between(words, recipe.script)
    if between:
        raise lab.finding(
            "shell-keeps-signals",
            "Docker starts the program itself (the exec form), or the shell makes way for it "
            "(exec).",
            f"{between}, and whether SIGTERM ever reaches the program is up to that shell.",
            numbered(*told),
        )


@check("1c", points=2)
def test_leaves_out_what_is_not_needed(lab):
    """Histories, caches and virtual environments stay out of the build (.dockerignore).

    What was copied into a layer stays in the image, also what a later line deletes. A virtual
    environment of another machine does not even work there.
    """
    recipe = read_recipe(lab)
    context = recipe.context
    expected = ".dockerignore keeps histories (.git), caches (__pycache__) and virtual " \
               "environments out of the build."  # fmt: skip
    if context.ignore_file is None:
        raise lab.finding("context-not-ignored", expected, "There is no .dockerignore.")
    lab.tell(f"Read {context.ignore_file}, as Docker does.")
    patterns = (recipe.folder / context.ignore_file).read_text("utf-8", "replace")

    def let_in(what, path):
        return lab.finding(
            "context-not-ignored", expected, f"It lets {what} in: {path}.",
            Evidence(context.ignore_file, tuple(patterns.splitlines()[:20]) or ("(empty)",)),
        )  # fmt: skip

    ignored = context.ignore.ignores
    for path in (".git/HEAD", ".git/objects/1f/7a7a"):
        if not ignored(path):
            raise let_in("the history", path)
    if not any(path.endswith(".py") for path in context.paths):
        return  # another language has caches of its own, or none
    packages = {path.split("/")[0] for path in context.files if path.endswith(".py")
                and "/" in path} or {"worker"}  # fmt: skip
    for folder in ("", *(f"{package}/" for package in sorted(packages))):
        path = f"{folder}__pycache__/module.cpython-312.pyc"
        if not ignored(path):
            raise let_in("a cache of Python's" if not folder else "caches inside of packages", path)
    here = [name for name in ENVIRONMENTS if f"{name}/pyvenv.cfg" in context.paths
            or (f"{name}/" in context.paths and name.strip(".") in ("venv", "virtualenv"))]
    inside = [f"{name}/lib/python3.12/site-packages/redis/client.py" for name in here or
              ENVIRONMENTS]  # fmt: skip
    if here:
        for path in inside:
            if not ignored(path):
                raise let_in("the virtual environment", path)
    elif not any(map(ignored, inside)):
        raise let_in("virtual environments", inside[0])


@check("1c", points=3, needs=["completes_a_job"], workers=9)
def test_works_as_an_image(lab):
    """What the Dockerfile copies is there, and the image works a job and stops when told to.

    It is built and run where there is a Docker engine with the base image; else it is only read.
    """
    recipe = read_recipe(lab)
    for stage in recipe.file.stages:
        for each in stage.own:
            for source in recipe.takes(stage, each):
                if why := recipe.context.lacks(source):
                    by = f" by {recipe.context.ignore_file}" if why == "is ignored" else ""
                    raise lab.finding(
                        "copy-source-missing",
                        "Everything that is copied from the folder is in the build context.",
                        f"Line {each.line} takes “{source}”, which {why}{by}.", numbered(each),
                    )  # fmt: skip
    words, told = started(recipe.file)
    if found := brought.trouble(recipe, words):
        why, lines = found
        raise lab.finding(
            "image-not-started", "What the image starts is in it, and all that it imports.", why,
            numbered(*(lines or told)),
        )  # fmt: skip
    try:
        with image.built(lab, recipe.file) as made:
            works_a_job(lab, made)
    except image.ReadingOnly as why:
        text = str(why)
        lab.tell(f"{text[:1].upper()}{text[1:]}: the image was checked by reading only.")
        lab.remark(f"The image was not built, and only read: {text}.")


def works_a_job(lab, made):
    """The image's worker does a job as an ordinary user, and finishes it when it is told to stop.

    What `docker stop` sends is sent while the job is in hand.
    """
    job = lab.add_job()
    worker = made.start_worker()
    call = lab.world.next_call(job)
    if any(user in ("root", "0") for user in worker.users()):
        raise lab.finding(
            "runs-as-root", "The processes of the container are an ordinary user's.",
            "The engine shows root.",
        )  # fmt: skip
    worker.terminate()
    worker.expect_alive()
    call.finish()
    worker.expect_exit(code=0, task=job)
