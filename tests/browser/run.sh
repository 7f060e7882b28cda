#!/bin/sh
# SPDX-License-Identifier: MIT
# Run the browser test: JIM=path/to/jim tests/browser/run.sh
# Installs what is missing: Chromium through apt-get (CHROMIUM names another one), and playwright-core.
set -eu
cd "$(dirname "$0")"
: "${JIM:=../../jim}"
: "${CHROMIUM:=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
if [ -z "$CHROMIUM" ]; then
    apt-get -o Acquire::Retries=5 install -y --no-install-recommends chromium >&2
    CHROMIUM=$(command -v chromium)
fi
if [ ! -d node_modules/playwright-core ] || [ package-lock.json -nt node_modules ]; then
    npm ci --no-audit --no-fund --fetch-retries=5 >&2
    touch node_modules
fi
export JIM CHROMIUM
exec node chat.mjs "$@"
