# Needs make and a Python of at least 3.11; `make setup` says what is missing. PYTHON=... picks one.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint golden bench nightly clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	tools/make-venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q streams gateway server schemas
	touch $@

# A sample order on the official Python SDK against the embedded server.
demo: setup
	@$(BIN)/python -m examples.demo

test: lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Records again what the real server does; needs Go.
golden: setup
	$(BIN)/python -m tests.oracle record

# Side by side with the real server; needs Go, a quiet machine and hours.
bench: setup
	$(BIN)/python -m benchmarks.run

# The tests that take too long for every change.
nightly: setup
	ODRADEK_TEST_SEEDS=10000 ODRADEK_TEST_KILLS=50 ODRADEK_TEST_CRASHES=50 ODRADEK_TEST_FUZZ=10 \
		$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build *.egg-info
