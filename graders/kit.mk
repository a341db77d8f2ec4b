# Commands for instructors, and for those who work on the kit. Included by the Makefile; what needs
# solutions, mutants or the kit's own tests is here, and not in the students' kit.

export DIR OUT JOBS LIMIT AGAIN LOOK WHEELS NOTEBOOKS PLATFORMS PYTHONS

define HELP_KIT

For instructors (see INSTRUCTORS.md):

  make student-kit OUT=dist     write what students get: the kit without what tells the answers
  make wheels                   fetch all packages, so that a class sets up without a network
  make grade-all LAB=03         grade a class, from DIR into OUT; goes on where it was stopped

  DIR=path/to/submissions       one folder or archive per student, or what Moodle, Canvas or
                                Gradescope hand out, also as one archive
  OUT=path/to/folder            where it is written
  JOBS=2                        so many submissions side by side; by default three for two cores
  LIMIT=600                     seconds for one submission, times PATIENCE
  AGAIN=name                    grade these again, by name; or all, or could-not-grade
  LOOK=1                        only say what would be graded, and whose it is
  WHEELS=1                      put the fetched packages into the student kit
  NOTEBOOKS=no                  leave the notebooks out of it
  PLATFORMS=…  PYTHONS=…        fetch packages for other machines and Pythons

For those who work on the kit:

  make test                     its own tests
  make lint                     the linter
  make test-notebooks           run the notebooks, and compare what they show with what is stored
  make prove                    each wrong worker is caught, each right one gets full marks
  make bench-grader             how long grading takes, and where the time goes
  make bench-class              how well grading a class uses this machine

endef

ifneq ($(call in-place,test),yes)
.PHONY: .venv/.ready-test
endif
.venv/.ready-test: pyproject.toml graders/constraints.txt
	@sh graders/setup.sh test

KIT_COMMANDS := student-kit wheels grade-all prove bench-grader bench-class

.PHONY: $(KIT_COMMANDS)
$(KIT_COMMANDS): .venv/.ready-base
	@$(CLI) $@

.PHONY: test lint
test: .venv/.ready-test
	@status=0; \
	$(PY) -m pytest graders/tests -m "not proof" || status=1; \
	$(PY) -m pytest graders/tests -m proof -n 3 || status=1; \
	exit $$status

lint: .venv/.ready-test
	@$(PY) -m ruff check .

# One after the other: what they measure is not to be disturbed by another one.
.PHONY: test-notebooks
test-notebooks: .venv/.ready-notebook
	@$(PY) -m pytest --nbval --nbval-current-env notebooks
