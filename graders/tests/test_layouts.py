"""Who has handed in what, in the layouts of Moodle, Canvas, Gradescope, and plain ones."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest

from graders.classes.archives import ArchiveError
from graders.classes.layouts import (
    MAX_ID,
    TAKEN_FOR_ONE,
    Entry,
    find,
    prepare,
    read_metadata,
    student_id,
)

PROCFILE = {"lab03/Procfile": b"worker: python -m worker\n", "lab03/worker.py": b""}
DANA, MARYAM = "\u05d3\u05e0\u05d4", "\u0645\u0631\u064a\u0645"


def packed(names: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return out.getvalue()


ZIP = packed(PROCFILE)


def lay(folder: Path, *names: str, **content: bytes) -> Path:
    """A folder with these files: archives for `….zip`, empty folders for `…/`."""
    for name in names:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                content.get(name) or (ZIP if name.endswith(".zip") else b"worker: x\n")
            )
    return folder


def zip_of(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, path.relative_to(folder).as_posix())
    return archive


@pytest.fixture
def top(tmp_path: Path) -> Path:
    path = tmp_path / "submissions"
    path.mkdir()
    return path


def ids(entries: list[Entry]) -> list[str]:
    return [e.student for e in entries]


def prepared(entry: Entry, tmp_path: Path, lab: str = "") -> str:
    """Where the Procfile lies, in the opened archive or in the student's folder."""
    to = tmp_path / "prepared" / entry.student
    folder = prepare(entry, to, lab)
    base = to if folder.is_relative_to(to) else entry.path
    return folder.relative_to(base).as_posix()


class TestPlain:
    def test_folders_and_archives(self, top: Path, tmp_path: Path) -> None:
        lay(
            top, "mueller/Procfile", "schmidt.zip", "README.md", "marks.csv", ".git/config",
            "__MACOSX/._x", "grades.xlsx", ".hidden.zip", "nothing/", "notes.docx",
            **{"grades.xlsx": ZIP, "notes.docx": ZIP},
        )  # fmt: skip
        with tarfile.open(top / "yilmaz.tar.gz", "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("Procfile"))
        os.symlink(top / "mueller", top / "link")
        remarks: list[str] = []
        entries = find(top, remarks=remarks)
        assert ids(entries) == ["mueller", "nothing", "schmidt", "yilmaz"]
        assert {e.late for e in entries} == {None}
        assert [prepared(e, tmp_path) for e in entries] == [".", ".", "lab03", "."]
        assert len(remarks) == 2
        assert "link" in remarks[0]
        for name in ("README.md", "marks.csv", "grades.xlsx", "notes.docx"):
            assert name in remarks[1]

    def test_an_archive_without_a_name_for_one(self, top: Path) -> None:
        lay(top, "mueller", "schmidt.submission", mueller=ZIP, **{"schmidt.submission": ZIP})
        assert ids(find(top)) == ["mueller", "schmidt.submission"]

    def test_what_only_looks_like_an_archive_is_a_problem(self, top: Path, tmp_path: Path) -> None:
        lay(
            top, "a.zip", "b.rar", "c.tar.gz",
            **{"a.zip": b"hello", "b.rar": b"Rar!\x1a\x07\x01\x00", "c.tar.gz": b"x" * 600},
        )  # fmt: skip
        entries = find(top)
        assert ids(entries) == ["a", "b", "c"]
        assert all(e.problem.endswith(".") for e in entries)
        assert "RAR" in entries[1].problem
        with pytest.raises(ArchiveError) as caught:
            prepare(entries[1], tmp_path / "to")
        assert caught.value.message == entries[1].problem
        assert not (tmp_path / "to").exists()

    def test_the_folder_counts_before_its_archive(self, top: Path) -> None:
        entries = find(lay(top, "mueller/Procfile", "mueller.zip"))
        assert ids(entries) == ["mueller"]
        assert entries[0].path == top / "mueller"
        assert "mueller.zip" in entries[0].remarks[0]

    def test_a_second_download_of_a_browser(self, top: Path) -> None:
        entries = find(lay(top, "mueller.zip", "mueller (2).zip", "mueller (1).zip", "x (1).zip"))
        assert ids(entries) == ["mueller", "x-1"]
        assert entries[0].path.name == "mueller (2).zip"
        assert "mueller (1).zip" in entries[0].remarks[0]

    def test_numbered_teams_are_teams(self, top: Path) -> None:
        lay(top, "team-1.zip", "team-2.zip", "team_03_2024_last.zip", "x.zip")
        assert ids(find(top)) == ["team-1", "team-2", "team_03_2024_last", "x"]

    def test_a_folder_with_one_archive_in_it(self, top: Path, tmp_path: Path) -> None:
        lay(top, "mueller/lab03.zip", "schmidt/notes.txt")
        entries = find(top)
        assert entries[0].path.name == "lab03.zip"
        assert prepared(entries[0], tmp_path) == "lab03"
        assert entries[1].path == top / "schmidt"

    def test_the_lab_that_is_asked_for(self, top: Path) -> None:
        lay(top, "mueller/lab03.zip", "mueller/lab04.zip", "mueller/lab13.zip")
        assert find(top, lab="03")[0].path.name == "lab03.zip"
        assert find(top, lab="3")[0].path.name == "lab03.zip"
        assert find(top)[0].path.name == "lab13.zip"

    def test_names(self, top: Path) -> None:
        decomposed = unicodedata.normalize("NFD", "J\u00fcrgen Gro\u00df")
        lay(
            top, f"{decomposed}/Procfile", f"{DANA} {MARYAM}.zip", "-rf.zip", "\U0001f600.zip",
            "e\u202egnp.zip", "a b/", "a-b/", "A-B/",
        )  # fmt: skip
        entries = find(top)
        names = {e.name: e.student for e in entries}
        assert names["J\u00fcrgen Gro\u00df"] == "J\u00fcrgen-Gro\u00df"
        assert names[f"{DANA} {MARYAM}"] == f"{DANA}-{MARYAM}"
        assert names["\U0001f600"] == "student"
        assert names["-rf"] == "rf"
        assert names["egnp"] == "egnp"
        assert sorted(names[n].lower() for n in ("a b", "a-b", "A-B")) == ["a-b", "a-b-2", "a-b-3"]
        assert len({s.lower() for s in ids(entries)}) == len(entries)

    def test_dir_is_an_archive(self, top: Path, tmp_path: Path) -> None:
        lay(top, "mueller/Procfile", "schmidt.zip", "README.md")
        flat = zip_of(top, tmp_path / "class.zip")
        assert ids(find(flat, tmp_path / "work")) == ["mueller", "schmidt"]
        lay(top, "yilmaz/nothing/")
        (tmp_path / "outer").mkdir()
        top.rename(tmp_path / "outer" / "submissions")
        nested = zip_of(tmp_path / "outer", tmp_path / "class2.zip")
        entries = find(nested, tmp_path / "work")
        assert ids(entries) == ["mueller", "schmidt", "yilmaz"]
        assert prepared(entries[1], tmp_path) == "lab03"

    @pytest.mark.parametrize(("names", "expected"), [
        (["anna/lab03.zip", "bert/lab03.zip"], ["anna", "bert"]),
        (["anna/Procfile", "bert/Procfile", "carl/notes.txt"], ["anna", "bert", "carl"]),
        (["anna.tar.gz", "carl/Procfile", "dora/"], ["anna", "carl", "dora"]),
        # The work of one.
        (["lab01/Procfile", "lab03/Procfile"], ["all"]),
        (["Lab 3.zip", "Lab 3 (1).zip"], ["all"]),
        (["work.zip", "work-1.zip"], ["all"]),
        (["starter/lab03/Procfile", "a.zip", "b.zip", "other/Procfile"], ["all"]),
    ])
    def test_all_lies_in_one_folder(
        self, top: Path, tmp_path: Path, names: list[str], expected: list[str]
    ) -> None:
        lay(top / "all", *names)
        whole = zip_of(top, tmp_path / "class.zip")
        assert ids(find(whole, tmp_path / "work", "03")) == expected
        # In a folder it may be the first one's who has handed in, and is told of.
        several = [TAKEN_FOR_ONE.format("all")] if expected != ["all"] else []
        remarks: list[str] = []
        assert ids(find(top, tmp_path / "work", "03", remarks)) == ["all"]
        assert [r for r in remarks if r in several] == several

    @pytest.mark.parametrize("name", ["anna.zip", "lee_123_4567_work.zip"])
    def test_the_first_one_who_has_handed_in(self, top: Path, tmp_path: Path, name: str) -> None:
        zip_of(lay(tmp_path / "x", "v1/Procfile", "v2/Procfile"), top / name)
        remarks: list[str] = []
        (entry,) = find(top, tmp_path / "work", "03", remarks)
        assert (entry.student, entry.path) == (name.partition("_")[0].partition(".")[0], top / name)
        assert remarks == [TAKEN_FOR_ONE.format(name)]
        assert list((tmp_path / "work").iterdir()) == []

    def test_what_may_be_one_or_several_is_told_of(self, top: Path) -> None:
        lay(top / "all", "anna/Procfile", "bert/readme.txt")
        remarks: list[str] = []
        assert ids(find(top, remarks=remarks)) == ["all"]
        assert remarks == [TAKEN_FOR_ONE.format("all")]

    def test_an_archive_needs_a_folder_to_be_opened_in(self, top: Path) -> None:
        with pytest.raises(ValueError, match="needs a folder"):
            find(lay(top, "class.zip") / "class.zip")

    def test_dir_is_one_submission(self, top: Path, tmp_path: Path) -> None:
        entries = find(lay(top, "Procfile", "worker/main.py"))
        assert ids(entries) == ["submissions"]
        assert entries[0].path == top
        one = zip_of(top, tmp_path / "mueller.zip")
        assert ids(find(one, tmp_path / "work")) == ["mueller"]

    def test_dir_is_not_there(self, top: Path) -> None:
        with pytest.raises(ArchiveError) as caught:
            find(top / "none")
        assert caught.value.code == "submissions-missing"
        assert find(top) == []


class TestMoodle:
    def test_folders(self, top: Path, tmp_path: Path) -> None:
        lay(
            top,
            "Anna M\u00fcller_123456_assignsubmission_file_/lab03.zip",
            "Bo Li_123457_assignsubmission_file/lab03/Procfile",  # without the last _, as of 4.1
            "Bo Li_123457_assignsubmission_onlinetext/onlinetext.html",
            f"{DANA} {MARYAM}_123458_assignsubmission_file_/Procfile",
            "Eva Stein_123459_assignsubmission_onlinetext_/onlinetext.html",
        )
        for source in (top, zip_of(top, tmp_path / "Course-Lab 03-4711.zip")):
            entries = find(source, tmp_path / "work")
            assert ids(entries) == ["Anna-M\u00fcller", "Bo-Li", "Eva-Stein", f"{DANA}-{MARYAM}"]
            assert entries[0].name == "Anna M\u00fcller"
            assert entries[1].remarks == ("What was written online was left aside.",)
            assert entries[2].problem == "Eva Stein has handed in a text or a link, and no file."
            good = [e for e in entries if not e.problem]
            for entry, where in zip(good, ("lab03", "lab03", "."), strict=True):
                to = tmp_path / f"to {source.name}" / entry.student
                folder = prepare(entry, to)
                assert folder in (to / where, entry.path / where)
                assert (folder / "Procfile").is_file()

    def test_files_side_by_side(self, top: Path, tmp_path: Path) -> None:
        lay(
            top,
            "Anna M\u00fcller_123456_assignsubmission_file_my_lab_03_1_2_x.zip",
            "Bo Li_123457_assignsubmission_file_Procfile",
            "Bo Li_123457_assignsubmission_file_worker.py",
            "Bo Li_123457_assignsubmission_onlinetext_onlinetext.html",
        )
        entries = find(top)
        assert ids(entries) == ["Anna-M\u00fcller", "Bo-Li"]
        assert prepared(entries[0], tmp_path) == "lab03"
        folder = prepare(entries[1], tmp_path / "loose")
        assert sorted(os.listdir(folder)) == ["Procfile", "worker.py"]
        assert "2 single files" in entries[1].remarks[-1]

    def test_the_same_name_twice(self, top: Path) -> None:
        lay(
            top,
            "Anna M\u00fcller_11_assignsubmission_file_/Procfile",
            "anna m\u00fcller_12_assignsubmission_file_/Procfile",
            "Anna_13_assignsubmission_file_/Procfile",
        )
        assert ids(find(top)) == ["Anna", "Anna-M\u00fcller-11", "anna-m\u00fcller-12"]

    def test_groups_and_blind_marking(self, top: Path) -> None:
        lay(
            top,
            "Default group_assignsubmission_file_/Procfile",
            "Team 7_44_assignsubmission_file_/Procfile",
            "Participant_991_assignsubmission_file_/Procfile",
            "Participant_992_assignsubmission_file_/Procfile",
        )
        assert ids(find(top)) == [
            "Default-group", "Participant-991", "Participant-992", "Team-7",
        ]  # fmt: skip

    def test_several_archives(self, top: Path) -> None:
        folder = "Anna_11_assignsubmission_file_"
        lay(top, f"{folder}/lab03 (1).zip", f"{folder}/lab03.zip", f"{folder}/report.pdf")
        entry = find(top)[0]
        assert entry.path.name == "lab03 (1).zip"
        assert "left aside: “lab03.zip”" in entry.remarks[0]

    def test_one_in_a_folder_and_one_that_came_by_mail(self, top: Path) -> None:
        lay(top, "Anna_11_assignsubmission_file_/Procfile", "schmidt.zip")
        assert ids(find(top)) == ["Anna", "schmidt"]

    def test_an_export_with_one_who_has_handed_in_twice(self, top: Path, tmp_path: Path) -> None:
        lay(top, "Anna Lee_11_assignsubmission_file_/lab03.zip",
            "Anna Lee_11_assignsubmission_file_/lab03 (1).zip")
        for source in (top, zip_of(top, tmp_path / "Course-Lab 03-4711.zip")):
            (entry,) = find(source, tmp_path / "work")
            assert (entry.student, entry.id, entry.path.name) == (
                "Anna-Lee", "11", "lab03 (1).zip")

    def test_the_only_archive_in_dir(self, top: Path, tmp_path: Path) -> None:
        lay(tmp_path / "x", "Anna_11_assignsubmission_file_/Procfile")
        zip_of(tmp_path / "x", top / "download.zip")
        assert ids(find(top, tmp_path / "work")) == ["Anna"]
        # A single student's archive is looked into and left as it was.
        lay(tmp_path / "y", "mueller.zip")
        assert find(tmp_path / "y", tmp_path / "w")[0].path == tmp_path / "y" / "mueller.zip"
        assert list((tmp_path / "w").iterdir()) == []


class TestCanvas:
    def test_archives(self, top: Path, tmp_path: Path) -> None:
        lay(
            top,
            "m\u00fclleranna_12345_678910_lab03.zip",
            "libo_LATE_12346_678911_my lab_03.zip",
            f"{MARYAM}_12347_678912_lab.zip",
            "steineva_LATE_12348_text.html",
            "README.md",
        )
        for source in (top, zip_of(top, tmp_path / "submissions.zip")):
            entries = find(source, tmp_path / "work")
            assert ids(entries) == ["libo", "m\u00fclleranna", "steineva", MARYAM]
            assert [e.late for e in entries] == [True, False, True, False]
            assert "no file" in entries[2].problem
        assert prepared(entries[0], tmp_path) == "lab03"

    def test_the_last_one_counts(self, top: Path) -> None:
        lay(
            top, "libo_12_999_lab03.zip", "libo_12_1002_lab03-2.zip", "libo_12_1001_lab03-1.zip",
            "libo_12_1003_report.pdf",
        )  # fmt: skip
        (entry,) = find(top)
        assert entry.path.name == "libo_12_1002_lab03-2.zip"
        assert "“lab03-2.zip” counts" in entry.remarks[0]
        assert "lab03-1.zip" in entry.remarks[0]

    def test_same_names_get_their_numbers(self, top: Path) -> None:
        lay(top, "libo_12_991_lab03.zip", "libo_13_992_lab03.zip", "libona_14_993_lab03.zip")
        assert ids(find(top)) == ["libo-12", "libo-13", "libona"]

    def test_single_files_of_a_second_upload(self, top: Path, tmp_path: Path) -> None:
        lay(
            top, "libo_12_991_Procfile-1", "libo_12_992_worker-1.py", "libo_12_993_part-7.py",
            "steineva_13_994_lab03.zip",
        )  # fmt: skip
        folder = prepare(find(top)[0], tmp_path / "loose")
        assert sorted(os.listdir(folder)) == ["Procfile", "part-7.py", "worker.py"]

    def test_anonymous(self, top: Path) -> None:
        lay(top, "anon_x7Ab2_991_lab03.zip", "LATE_anon_Kq3_992_lab03.zip")
        entries = find(top)
        assert ids(entries) == ["anon_Kq3", "anon_x7Ab2"]
        assert [e.late for e in entries] == [True, False]

    def test_a_date_is_no_student(self, top: Path) -> None:
        lay(top, "libo_12_991_lab03.zip", "marks_2026_11_24.csv", "schmidt.zip")
        assert ids(find(top)) == ["libo", "schmidt"]

    def test_a_hostile_file_name(self, top: Path, tmp_path: Path) -> None:
        lay(top, "libo_12_991_..", "libo_12_992_..\\evil", "libo_12_993_Procfile")
        folder = prepare(find(top)[0], tmp_path / "a" / "loose")
        assert folder == tmp_path / "a" / "loose"
        assert all(p.parent == folder for p in folder.iterdir())
        assert "Procfile" in os.listdir(folder)


METADATA = """---
submission_98765:
  :submitters:
  - :name: Anna M\u00fcller
    :sid: '555'
    :email: anna@example.org
  :created_at: 2026-11-24 10:00:00.000000000 Z
  :results:
    output: |
      :submitters:
      - :name: Mallory
submission_98766:
  :submitters:
  - :name: "Bo \\"B\\" L\\u00ed"
    :email: bo@example.org
  - :name: 'O''Neil, Eva'
    :email: eva@example.org
  :history:
  - :id: 7
    :submitters:
    - :name: Mallory
submission_98768:
  :submitters: []
"""


class TestGradescope:
    def export(self, top: Path, metadata: str | None) -> Path:
        folder = top / "assignment_4711_export"
        lay(
            folder, "submission_98765/Procfile", "submission_98766/lab/Procfile",
            "submission_98767/lab03.zip", "submission_98768/",
        )  # fmt: skip
        if metadata is not None:
            (folder / "submission_metadata.yml").write_text(metadata)
        return folder

    def test_names(self, top: Path, tmp_path: Path) -> None:
        folder = self.export(top, METADATA)
        for source in (folder, top, zip_of(top, tmp_path / "export.zip")):
            entries = find(source, tmp_path / "work")
            assert {e.name: e.student for e in entries} == {
                "Anna M\u00fcller": "Anna-M\u00fcller",
                'Bo "B" L\u00ed, O\'Neil, Eva': "Bo-B-L\u00ed-O-Neil-Eva",
                "submission_98767": "submission_98767",
                "submission_98768": "submission_98768",
            }
        assert [prepared(e, tmp_path) for e in entries] == [".", "lab", "lab03", "."]

    @pytest.mark.parametrize("metadata", [None, "", "\x00\ufffd{{{:::", "submission_98765: [\n"])
    def test_names_that_cannot_be_read(self, top: Path, metadata: str | None) -> None:
        folder = self.export(top, metadata)
        assert ids(find(folder)) == [f"submission_{n}" for n in range(98765, 98769)]

    def test_what_the_platforms_call_their_students(self, top: Path, tmp_path: Path) -> None:
        """For the way back into a gradebook."""
        entries = find(self.export(top, METADATA))
        assert [e.id for e in entries] == ["555", "bo@example.org, eva@example.org", "", ""]
        others = lay(tmp_path / "others", "Anna B_123_assignsubmission_file_/Procfile",
                     "muellereva_LATE_77_1234_lab03.zip")
        assert {e.name: e.id for e in find(others)} == {"Anna B": "123", "muellereva": "77"}

    def test_the_same_student_twice(self, top: Path) -> None:
        twice = METADATA + METADATA.split("submission_98766")[0][4:].replace("98765", "98769")
        lay(self.export(top, twice), "submission_98769/Procfile")
        entries = find(top)
        anna = next(e for e in entries if e.name == "Anna M\u00fcller")
        assert anna.path.name == "submission_98769"
        assert "submission_98765" in anna.remarks[0]

    def test_the_same_name_twice(self, top: Path) -> None:
        same = METADATA + METADATA.split("submission_98766")[0][4:].replace(
            "98765", "98769"
        ).replace("anna@", "other@")
        lay(self.export(top, same), "submission_98769/Procfile")
        assert ids(find(top))[:2] == ["Anna-M\u00fcller-98765", "Anna-M\u00fcller-98769"]

    def test_read_metadata(self, tmp_path: Path) -> None:
        path = tmp_path / "m.yml"
        path.write_text(METADATA)
        people = read_metadata(path)
        assert people["submission_98765"] == [
            {"name": "Anna M\u00fcller", "sid": "555", "email": "anna@example.org"}
        ]
        assert [p["name"] for p in people["submission_98766"]] == ['Bo "B" L\u00ed', "O'Neil, Eva"]
        assert people["submission_98768"] == []


class TestProcfile:
    def one(self, top: Path, tmp_path: Path, *names: str, lab: str = "") -> str:
        lay(top / "mueller", *names)
        lay(top, "other/Procfile")
        return prepared(find(top, lab=lab)[0], tmp_path, lab)

    @pytest.mark.parametrize(
        ("names", "lab", "where"),
        [
            (["Procfile", "a/Procfile"], "", "."),
            (["a/b/Procfile", "a/c/d/Procfile"], "", "a/b"),
            (["a/b/c/d/Procfile"], "", "a/b/c/d"),
            (["a/b/c/d/e/Procfile"], "", "."),
            (["x/notes.txt"], "", "."),
            (["Procfile", "starter/lab03/Procfile"], "03", "starter/lab03"),
            (["starter/lab01/Procfile", "starter/lab03/Procfile"], "03", "starter/lab03"),
            (["solutions/lab03/Procfile", "starter/lab03/Procfile"], "03", "starter/lab03"),
            (["lab01/Procfile"], "03", "lab01"),
            (["a/procfile", "b/x"], "", "a"),
            (["a/Procfile.txt"], "", "a"),
            ([".venv/Procfile", "__MACOSX/Procfile", ".git/Procfile", "z/Procfile"], "", "z"),
            (["node_modules/Procfile", "b/c/Procfile"], "", "b/c"),
            (["Procfile/x", "b/c/Procfile"], "", "b/c"),
        ],
    )
    def test_where(self, top: Path, tmp_path: Path, names: list[str], lab: str, where: str) -> None:
        assert self.one(top, tmp_path, *names, lab=lab) == where

    @pytest.mark.parametrize("packed_twice", [True, False])
    def test_an_archive_in_an_archive_is_opened(
        self, top: Path, tmp_path: Path, packed_twice: bool
    ) -> None:
        outer = tmp_path / "outer"
        lay(outer / "sub", "work.zip", **{"work.zip": packed({"lab03/Procfile": b"worker: x"})})
        if packed_twice:
            zip_of(outer, top / "ned.zip")
        else:
            (outer / "sub").rename(top / "ned")
            (top / "ned" / "deeper").mkdir()
            (top / "ned" / "work.zip").rename(top / "ned" / "deeper" / "work.zip")
        remarks: list[str] = []
        to = tmp_path / "to"
        folder = prepare(find(top)[0], to, "03", remarks)
        assert (folder / "Procfile").read_bytes() == b"worker: x"
        assert folder.is_relative_to(to)
        assert remarks == ["“work.zip”, which lay in it, was opened."]

    def test_several_archives_in_an_archive_are_told_of(self, top: Path, tmp_path: Path) -> None:
        inner = packed({"Procfile": b"worker: x"})
        outer = tmp_path / "outer"
        lay(outer / "sub", "a.zip", "b.tar.gz", **{"a.zip": inner, "b.tar.gz": inner})
        zip_of(outer, top / "ned.zip")
        remarks: list[str] = []
        prepare(find(top)[0], tmp_path / "to", "03", remarks)
        assert remarks == ["It holds 2 archives, of which none was opened."]
        (outer / "sub" / "b.tar.gz").unlink()
        (outer / "sub" / "a.zip").write_bytes(b"PK\x03\x04 and then nothing")
        zip_of(outer, top / "ned.zip")
        remarks.clear()
        prepare(find(top)[0], tmp_path / "to2", "03", remarks)
        assert remarks == ["a.zip is damaged or cut off and cannot be opened."]

    def test_several_are_told_of(self, top: Path, tmp_path: Path) -> None:
        lay(top, "mueller/a/Procfile", "mueller/b/Procfile")
        remarks: list[str] = []
        assert prepare(find(top)[0], tmp_path / "to", remarks=remarks) == top / "mueller" / "a"
        assert remarks == ["There are 2 Procfiles; the one in “a” counts."]

    def test_links_are_not_followed(self, top: Path, tmp_path: Path) -> None:
        lay(tmp_path / "elsewhere", "Procfile", "lab03.zip")
        lay(top, "mueller/x", "other/Procfile")
        os.symlink(tmp_path / "elsewhere", top / "mueller" / "there")
        os.symlink(tmp_path / "elsewhere" / "lab03.zip", top / "mueller" / "lab03.zip")
        os.symlink("..", top / "mueller" / "loop")
        assert prepare(find(top)[0], tmp_path / "to") == top / "mueller"

    def test_remarks_of_opening(self, top: Path, tmp_path: Path) -> None:
        info = zipfile.ZipInfo("bin/python")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        with zipfile.ZipFile(top / "mueller.zip", "w") as archive:
            archive.writestr("Procfile", "worker: x\n")
            archive.writestr(info, "/usr/bin/python3")
        remarks: list[str] = []
        prepare(find(top)[0], tmp_path / "to", remarks=remarks)
        assert remarks == ["“bin/python” was left out: it links to outside the folder."]

    def test_a_hostile_archive(self, top: Path, tmp_path: Path) -> None:
        (top / "mueller.zip").write_bytes(packed({"../evil": b"1"}))
        (top / "other.zip").write_bytes(ZIP)
        entries = find(top)
        with pytest.raises(ArchiveError) as caught:
            prepare(entries[0], tmp_path / "to")
        assert caught.value.code == "archive-unsafe"
        assert not (tmp_path / "to").exists()
        assert not (tmp_path / "evil").exists()
        assert prepared(entries[1], tmp_path) == "lab03"


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("Anna M\u00fcller", "", "Anna-M\u00fcller"),
        (unicodedata.normalize("NFD", "M\u00fcller"), "7", "M\u00fcller-7"),
        ("../../etc/passwd", "", "etc-passwd"),
        ("-rf /", "", "rf"),
        (".hidden", "", "hidden"),
        ("a\0b\nc", "", "a-b-c"),
        ("a\u202eb\u200dc", "", "abc"),
        ("\U0001f600", "12", "student-12"),
        ("", "", "student"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("\udcff", "", "student"),
    ],
)
def test_student_id(name: str, number: str, expected: str) -> None:
    assert student_id(name, number) == expected


@pytest.mark.parametrize("letter", ["a", "\u00fc", "\u0645", "\u4e2d", "\U00020000"])
def test_ids_are_short(letter: str) -> None:
    made = student_id(letter * 500, "123456")
    assert MAX_ID - 4 < len(made.encode()) <= MAX_ID
    assert made.endswith(f"{letter}-123456")


def test_ids_that_are_cut_stay_distinct(top: Path) -> None:
    lay(top, *(f"{'x' * 100} {n}.zip" for n in range(12)))
    made = ids(find(top))
    assert len(set(made)) == 12
    assert all(len(i.encode()) <= MAX_ID for i in made)
