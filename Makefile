# Python 3.11 or newer and make are all that these need; everything else is put into .venv.
# `make test PYTHON=python3.13` takes another one: a .venv of another version is made again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := -c 'import sys; print(*sys.version_info[:2])'
ifeq ($(origin PYTHON),command line)
ifneq ($(shell $(PYTHON) $(VERSION)),$(shell $(BIN)/python $(VERSION) 2>/dev/null))
OTHER := other-python
endif
endif

.PHONY: up test thorough needs checks bench soak mutate lock clean other-python

up: $(VENV)/.installed
	@exec $(BIN)/jobtrail up $(ARGS)

# Two files of tests at a time, since many tests wait for something; each side has a Kafka of its own.
# By the order of the folders, the long ones begin and the short ones end.
test: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory -j 2 needs checks
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

needs: $(VENV)/.installed-dev
	@PYTHON=$(BIN)/python sh tests/install.sh

# What CI has no time for: ten times as many drawn cases. An hour or two.
thorough: $(VENV)/.installed-dev
	THOROUGH=true $(BIN)/python -m pytest --timeout 7200 tests/unit tests/e2e/test_openapi.py $(ARGS)

checks: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

# Kills everything for as long as it is told, then checks: ARGS="--minutes 60 --seed 1".
soak: $(VENV)/.installed-dev
	@exec $(BIN)/python -m tests.faults.soak $(ARGS)

# Some minutes. Of one module: make mutate ARGS=fold
mutate: $(VENV)/mutation/.installed
	PYTHONHASHSEED=0 $(BIN)/python -m tests.mutation $(ARGS)

# The marker files are newer than what they were made from, or they are made again.
$(VENV)/.installed: requirements.lock pyproject.toml $(OTHER)
	$(PYTHON) -m venv $(if $(OTHER),--clear) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
		-r requirements-dev.lock
	@touch $@

# A folder of its own, of which only mutation testing knows.
$(VENV)/mutation/.installed: tests/mutation.lock $(VENV)/.installed-dev
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--require-hashes --no-deps --target $(@D) -r $<
	@touch $@

# Needs uv. Hashes pin what is installed; no index address is written down.
lock:
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 \
		pyproject.toml build-requirements.in --extra server -o requirements.lock
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 \
		pyproject.toml build-requirements.in --extra server --group dev -c requirements.lock -o requirements-dev.lock
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 \
		tests/s3-server.in -o tests/s3-server.lock
	uv pip compile --no-deps --generate-hashes --no-emit-index-url --no-annotate --universal \
		--python-version 3.11 tests/mutation.in -o tests/mutation.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
