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

# It checks the alert rules. Of Debian's package of Prometheus nothing else is wanted.
promtool=.venv/promtool
wants_promtool=""
command -v promtool >/dev/null || [ -x "$promtool" ] || wants_promtool=yes

if [ -z "$missing$wants_promtool" ]; then
	exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	if [ -n "$missing" ]; then
		# shellcheck disable=SC2086  # several packages
		apt-get install -y -qq --no-install-recommends $missing >/dev/null
	fi
	if [ -n "$wants_promtool" ]; then
		folder=$(mktemp -d)
		(cd "$folder" && apt-get download -qq prometheus >/dev/null)
		dpkg --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/promtool
		mv "$folder/usr/bin/promtool" "$promtool"
		rm -rf "$folder"
	fi
else
	[ -z "$wants_promtool" ] || missing="$missing promtool"
	echo "some tests need what is not here: install$missing with your package manager" >&2
fi
