# Python 3.11 or newer and make are all that these need; everything else is put into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: up test bench browser lock clean

up: $(VENV)/.installed
	@exec $(BIN)/jobtrail up $(ARGS)

test: $(VENV)/.installed-dev browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

# The marker files are newer than what they were made from, or they are made again.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# A test looks at /docs in Chromium, which pip does not bring. Where it can't be had, that test says
# so: it is skipped, or with CI=true it fails.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends chromium || \
			echo "Chromium could not be installed: apt-get install chromium"; \
	else echo "No Chromium: /docs is not looked at. On Debian and Ubuntu: apt-get install chromium"; \
	fi

# Needs uv. Hashes pin what is installed; no index address is written down.
lock:
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 \
		pyproject.toml build-requirements.in -o requirements.lock
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --universal --python-version 3.11 \
		pyproject.toml build-requirements.in --group dev -c requirements.lock -o requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
