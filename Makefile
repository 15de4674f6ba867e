# Each target sets up what it needs: a virtual environment in .venv, made once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CODE := sglang_mirror kernels patches tests examples
MODELS := examples/models

.PHONY: install demo serve results test check clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; name another with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[server,draft,bench,test,dev]'
	touch $@

demo: install  ## mirror, the same draft run serially, and plain decoding side by side
	$(BIN)/python -m sglang_mirror.bench.demo

serve: install  ## a server on port 30000 that decodes by mirror
	$(BIN)/python -m sglang_mirror.bench.serve

results: install  ## measure everything that docs/results.md states, about an hour on two idle cores
	mkdir -p docs/results
	$(BIN)/sglang-mirror bench run --arms plain serial mirror mirror:roots=draft plain:cores=all --repeats 7 --json docs/results/speed.json
	$(BIN)/python -m sglang_mirror.bench.identity --out docs/results/identity.json
	$(BIN)/python -m sglang_mirror.bench.identity --dtype bfloat16 --out docs/results/identity-bfloat16.json
	$(BIN)/python -m sglang_mirror.bench.law --out docs/results/law.json
	$(BIN)/python -m sglang_mirror.bench.results

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
