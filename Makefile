# Needs make and a Python of at least 3.11; `make setup` says what is missing. PYTHON=... picks one.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where the cluster's parts keep their data, logs, pids and ports, and where it serves after `cluster-up`.
CLUSTER_DIR := .cache/cluster
CLUSTER_PORT := 7233

.PHONY: setup demo cluster parts test test-kafka test-cluster lint golden bench nightly cluster-up cluster-down clean

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

# The same order on a real Kafka, Cassandra and PostgreSQL with two processes a role: starts them all, stops them all.
cluster: setup
	@$(BIN)/python -m deploy.local demo --dir $(CLUSTER_DIR)

# What real parts need, installed as root on Debian. Where that fails, tests that need it say so, and the rest runs.
parts: setup
	-@$(BIN)/python -m deploy.local fetch

# Real parts included, which it starts: deploy/local/README.md.
test: lint parts
	$(BIN)/python -m pytest

# Those of the log and the stores alone.
test-kafka: parts
	$(BIN)/python -m pytest tests/kafka

# Every fault of a cluster under load: processes, brokers, stores. About ten minutes.
test-cluster: parts
	$(BIN)/python -m pytest tests/cluster

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
		ODRADEK_TEST_KILL_SECONDS=600 ODRADEK_TEST_DOWN_SECONDS=60 $(BIN)/python -m pytest tests

# Leaves a cluster serving on this machine: deploy/local/README.md.
cluster-up: setup
	@$(BIN)/python -m deploy.local up --dir $(CLUSTER_DIR) --serve --port $(CLUSTER_PORT)

cluster-down: setup
	@$(BIN)/python -m deploy.local down --dir $(CLUSTER_DIR)

clean:
	rm -rf $(VENV) build *.egg-info
