# The commands of Worker Labs. Everything they do is in graders/; see `make help`.
# For GNU make 3.81 and newer, any POSIX shell, on Linux and macOS (Windows: inside WSL).

.DEFAULT_GOAL := help
SHELL := /bin/sh

# Variables reach the commands through the environment, never through a shell's command line, so
# that a folder's name may contain anything.
export LAB SRC CHECK SERVICES PATIENCE RUNS VERBOSE N STEP DOWN API PORT PYTHON
# A user's own search path for modules must not reach the grader.
unexport PYTHONPATH PYTHONHOME

PY := .venv/bin/python
CLI := $(PY) -m graders.harness.cli

define HELP
Worker Labs: graded exercises on background workers and job queues

  make labs                     the labs, with time, prerequisites and your last score
  make grade LAB=03             grade starter/lab03; nothing needs to be installed before
  make explore LAB=03           every moment of your worker, in a table: step, words, outcome
  make hint LAB=03              the next hint for the first check that failed (CHECK=name: for that)
  make reset LAB=03             bring the starter back; your work is kept beside it
  make doctor                   what works on this machine, and what to do about what does not
  make test-setup               whether this machine can grade every lab, tried out
  make notebook LAB=03          the lab's walkthrough in Jupyter Lab, which is installed for it
  make images                   fetch the container images
  make clean                    remove the environment and caches; scores and work stay

By hand, as the steps of a handout need it:

  make up LAB=03                start the servers and keep them; prints the variables to export
  make run LAB=03 N=2           run your worker, or N of them, in the foreground
  make api LAB=02               run your API in the foreground; prints API, its address
  make migrate LAB=02           run your migrations; DOWN=1 takes the last one back
  make tasks LAB=03 N=10        add tasks: through your API while it runs, else for the worker
  make queue LAB=03             show the tasks or jobs, again and again, until Ctrl-C
  make psql                     a prompt of PostgreSQL
  make redis-cli                a prompt of Redis
  make down                     stop the servers and throw their data away

Variables:

  LAB=03                        which lab; 3 and lab03 mean the same
  SRC=path/to/folder            grade or run this folder instead of the starter
  CHECK=name                    this check only, with the checks that it needs
  STEP=7b                       one moment of a check that tries every moment, told step by step
  SERVICES=auto                 auto, containers, embedded or external
  PATIENCE=2                    multiply every time limit, on a very slow machine
  RUNS=20                       grade so many times; prints how often each check passed and failed
  N=10                          so many workers, or tasks
  DOWN=1                        make migrate goes down instead of up
  PORT=9000                     the port of make api; by default the lab's own, or a free one
  API=path/to/folder            lab 03: this API instead of the kit's own, such as starter/lab02
  API=http://127.0.0.1:9000     where make tasks finds an API that make api does not run
  VERBOSE=1                     say more
  PYTHON=path/to/python3        the Python (3.11 or newer) to set up with

endef

# The environment. Its stamps hold the folder they were made in: a kit that was moved, or whose
# Python has gone, is set up again.
in-place = $(shell test -x $(PY) && test "`cat .venv/.ready-$(1) 2>/dev/null`" = "`pwd -P`" && echo yes)

ifneq ($(call in-place,base),yes)
.PHONY: .venv/.ready-base
endif
.venv/.ready-base: pyproject.toml graders/constraints.txt
	@sh graders/setup.sh

ifneq ($(call in-place,notebook),yes)
.PHONY: .venv/.ready-notebook
endif
.venv/.ready-notebook: pyproject.toml graders/constraints.txt
	@sh graders/setup.sh notebook

COMMANDS := grade explore labs hint reset doctor test-setup up run api migrate tasks queue psql redis-cli down images

.PHONY: $(COMMANDS)
$(COMMANDS): .venv/.ready-base
	@$(CLI) $@

.PHONY: notebook
ifneq ($(wildcard notebooks/*.ipynb),)
notebook: .venv/.ready-notebook
else
notebook: .venv/.ready-base
endif
	@$(CLI) notebook

# Servers that are still up run from the environment, so they go first.
.PHONY: clean
clean:
	@if test -f .worker-labs/servers.json && test -x $(PY); then $(CLI) down; fi
	@rm -rf .venv .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What only the whole kit can do; the students' kit does not have this file.
-include graders/kit.mk

.PHONY: help
help:
	$(info $(HELP)$(HELP_KIT))
	@:
