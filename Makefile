# Everything a person runs here. Python 3.11 or newer and make are all that must be there.
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test check soak bench clean

run: .venv/run ## set up and train `digits`: the main job
	.venv/bin/fedrounds train

test: .venv/test .venv/flower/done browser ## run all tests (about 20 minutes)
	$(PY) -m pytest -m "not soak"

check: .venv/test ## lint, strict types, import direction
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_architecture.py

soak: .venv/test browser ## the long versions of the random tests
	$(PY) -m pytest -m soak --timeout 7200

bench: .venv/test ## what a round costs, and how it compares with plain torch (about 11 minutes)
	$(PY) -m tests.benchmarks.orchestration
	$(PY) -m tests.benchmarks.cohorts

clean: ## remove the environment and everything generated
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The browser tests drive a real Chromium; where it is missing and we may, it is installed.
.PHONY: browser
browser:
	@command -v chromedriver >/dev/null || { \
	  apt-get update -qq && apt-get install -y -qq chromium chromium-driver fonts-dejavu-core; \
	} >/dev/null 2>&1 || echo "Chromium could not be installed: the browser tests will say so."

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[flows]'
	@touch $@

.venv/test: .venv/run
	$(PIP) --editable '.[flows,test]'
	@touch $@

# Flower, which the tests compare with, cannot be installed beside Prefect and MLflow.
.venv/flower/done: tests/flower/requirements.txt | .venv/bin/python
	$(PYTHON) -m venv .venv/flower
	.venv/flower/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
