#!/usr/bin/env bash
# Make .venv at the root from the hashed requirements; do nothing when it is already right.
set -euo pipefail
cd "$(dirname "$0")/.."
want=$(cat requirements.txt pyproject.toml | sha256sum | cut -c1-16)
[ "$(cat .venv/.swath-env 2>/dev/null)" = "$want" ] && exit 0
asroot() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else return 1; fi; }
echo "making the environment .venv (once; about two minutes and 7 GB)" >&2
if [ ! -x .venv/bin/python ]; then
  rm -rf .venv
  python3 -m venv .venv 2>/dev/null || {
    rm -rf .venv
    (asroot apt-get update -qq && asroot apt-get install -y -qq python3-venv) >&2
    python3 -m venv .venv
  }
fi
.venv/bin/python -m pip install -q --disable-pip-version-check uv
export VIRTUAL_ENV=$PWD/.venv
# bytecode now, once: where Python may not write it (PYTHONDONTWRITEBYTECODE) every start would compile again
.venv/bin/uv pip install -q --require-hashes --compile-bytecode -r requirements.txt
.venv/bin/uv pip install -q --no-deps -e .
echo "$want" > .venv/.swath-env
