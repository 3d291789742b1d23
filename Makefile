# Python 3.11 or newer and make are all that these need; everything else is put into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: up test needs checks bench lock clean

up: $(VENV)/.installed
	@exec $(BIN)/jobtrail up $(ARGS)

# Two files of tests at a time, since many tests wait for something; each side has a Kafka of its own.
# By the order of the folders, the long ones begin and the short ones end.
test: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory -j 2 needs checks
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

needs: $(VENV)/.installed-dev
	@sh tests/install.sh

checks: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

# The marker files are newer than what they were made from, or they are made again.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
		-r requirements-dev.lock
	@touch $@

# Needs uv. Hashes pin what is installed; no index address is written down.
lock:
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 \
		pyproject.toml build-requirements.in -o requirements.lock
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 \
		pyproject.toml build-requirements.in --group dev -c requirements.lock -o requirements-dev.lock
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 \
		tests/s3-server.in -o tests/s3-server.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
