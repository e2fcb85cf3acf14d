#!/usr/bin/env bash
# Chromium for the page tests; says so when it cannot be had (those tests then fail, they do not pass in silence).
set -u
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null && exit 0
asroot() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else return 1; fi; }
echo "installing chromium for the page tests (once)" >&2
(asroot apt-get update -qq && asroot apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1 ||
  echo "chromium could not be installed: page tests will say so" >&2
exit 0
