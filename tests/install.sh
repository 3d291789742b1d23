#!/bin/sh
# What the tests need of the system, beyond what pip brings. Elsewhere than as root on Debian it is
# said what is missing: the tests that need it are skipped then, and fail where CI=true.
set -eu

# A store that speaks S3: a folder of its own, since its needs and ours don't go together. PYTHON is
# the one that the tests run with.
store=.venv/s3-server
if ! cmp -s tests/s3-server.lock "$store/.installed"; then
	rm -rf "$store"
	"${PYTHON:-.venv/bin/python}" -m pip install --quiet --disable-pip-version-check --no-compile \
		--require-hashes --no-deps --target "$store" -r tests/s3-server.lock
	cp tests/s3-server.lock "$store/.installed"
fi

missing=""
command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ||
	missing="$missing postgresql"
# A test looks at /docs in it.
command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
	command -v google-chrome >/dev/null || missing="$missing chromium"

if [ -z "$missing" ]; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086  # several packages
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
	echo "some tests need what is not here: install$missing with your package manager" >&2
fi
