"""Exercise 2b: migrations, up and down."""

from __future__ import annotations

from graders.harness.check import check
from graders.lab02 import migrations

ROOT = "migrates_up"


@check("2b", points=5, workers=2)
def test_migrates_up(lab):
    """On an empty database, “migrate up” builds the schema; without a database it fails.

    The schema is what API and workers agree on. A run that has done nothing and ends with status 0
    lets a deploy go on that must not.
    """
    migrations.build_the_schema(lab)


@check("2b", points=3, needs=[ROOT], workers=3)
def test_migrates_twice_as_once(lab):
    """“migrate up” applies each migration once, and a new one when it comes.

    It runs at each deploy, and mostly there is nothing to do.
    """
    migrations.apply_each_once(lab)


@check("2b", points=4, needs=[ROOT], workers=3)
def test_migrates_down_again(lab):
    """“migrate down” undoes what “migrate up” has done, and then up builds it again.

    The way back has to be tried before the night on which it is needed.
    """
    migrations.go_down_and_up_again(lab)


@check("2b", points=4, needs=[ROOT], workers=3)
def test_leaves_nothing_half_done(lab):
    """A migration that fails leaves nothing half done, names its file, and can be mended.

    Half a migration fits neither the old program nor the new one, and no file describes it.
    """
    migrations.fail_whole(lab)


@check("2b", points=4, needs=[ROOT], workers=2)
def test_migrates_one_at_a_time(lab):
    """Two runs of “migrate up” at once do no harm: one waits for the other.

    A deploy that starts three containers starts three migrations.
    """
    migrations.run_two_at_once(lab)
