# Two commands do everything: `make demo` and `make test`. Each makes the environment when it is missing.
SHELL := /bin/bash
PY := .venv/bin/python
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
JOBS ?= 2

.PHONY: env demo test test-all lint bench reference lock clean

env:
	@bash tools/env.sh

demo: env
	@OMP_NUM_THREADS=2 $(PY) -m demo --out out/demo

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

test: lint
	@bash tools/browser.sh
	$(PY) -m pytest -n $(JOBS)

test-all: lint
	@bash tools/browser.sh
	$(PY) -m pytest -n $(JOBS) -m "slow or not slow" --timeout 1800

bench: env
	@for f in benchmarks/[a-z]*.py; do echo "== $$f"; $(PY) $$f || exit 1; done

reference: env
	$(PY) tools/reference.py docs/reference.md

lock:
	.venv/bin/uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --python-version 3.11 -o requirements.txt

clean:
	rm -rf out .pytest_cache .ruff_cache .hypothesis
