# make demo: set up and run the main job.   make test: set up and run the tests.   make lint: style and types.
# make test-long: whole jobs of every task, what is exported of them, and commands that are killed, raced and resumed.
# make test-fuzz: 10,000 damaged corpora and 2,000 models and inputs of strangers, where make test has a fifth.
# make test-docs: notebooks, recipes, a renamed clone and an installed wheel, each run as a reader would.
# make test-browser: pages in headless Chromium; needs chromium, chromium-driver and npm, which .ci/run installs.
# make rename NAME=myproject: a clone becomes a project of your own.   make schema: what editors know of conf/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-long test-fuzz test-docs test-browser lint rename schema clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info[:2] < (3, 14); sys.exit(0 if ok else "distilingua needs Python 3.10 to 3.13, this is %d.%d. Try: make setup PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/distilingua train

test: setup
	$(BIN)/python -m pytest

test-long: setup
	$(BIN)/python -m pytest -m long

test-fuzz: setup
	EXAMPLES=10000 $(BIN)/python -m pytest tests/corpora/test_fuzz.py tests/delivery/test_fuzz.py

test-docs: setup
	$(BIN)/python -m pytest -m docs

test-browser: setup
	$(BIN)/python -m pytest -m browser --numprocesses=0 tests/browser tests/monitoring

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

schema: setup
	$(BIN)/python .ci/schema.py

rename: setup
	$(BIN)/python .ci/rename.py $(NAME)
	$(BIN)/ruff check --quiet --select I --fix && $(BIN)/ruff format --quiet

clean:
	rm -rf $(VENV) .cache outputs multirun
