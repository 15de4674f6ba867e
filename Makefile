# Each target sets up what it needs: a virtual environment in .venv, made once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Chains of several depths and a tree of each; draft tokens a path, children a node, nodes.
GRID := $(foreach arm,standalone eagle3, $(foreach steps,2 3 5 7 10,$(arm):steps=$(steps)) $(arm):steps=5,topk=3,nodes=12) \
	$(foreach gamma,6 10 13,mirror:gamma=$(gamma)) mirror:gamma=8,topk=3,nodes=14 mirror:root_budget=24 \
	mirror:roots=draft mirror:roots=union mirror:roots=union,exit_vocab=4096
CODE := sglang_mirror kernels patches tests examples
MODELS := examples/models

.PHONY: install demo serve bench bench-all bench-stream bench-windows latency gpu-check gpu-bench soak faults tune results test check clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; name another with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[server,draft,bench,train,test,dev]'
	touch $@

demo: install  ## mirror, the same draft run serially, and plain decoding side by side
	$(BIN)/python -m sglang_mirror.bench.demo

serve: install  ## a server on port 30000 that decodes by mirror
	$(BIN)/python -m sglang_mirror.bench.serve

# Plain decoding and mirror are in every group of four: more servers than that at once do not fit into 24 GiB.
COMPARED := --reference plain mirror --arms standalone eagle3 serial plain:cores=all \
	--enlarge own 0.25b+12m --temperature 0 1 --together 4 --timeline

bench: install  ## every way of decoding side by side, small and enlarged target; 30 to 60 minutes
	$(BIN)/sglang-mirror bench run $(COMPARED) --concurrency 1 4 --questions 4 --tokens 96 --json out/bench.json
	$(BIN)/sglang-mirror bench report out/bench.json

bench-all: install  ## the whole matrix, hours
	$(BIN)/sglang-mirror bench run $(COMPARED) --concurrency 1 4 8 --questions 16 --tokens 128 --json out/bench-all.json
	$(BIN)/sglang-mirror bench report out/bench-all.json

# Windows of one size in every step: the law's parts are then the same in all of them, and so is what is compared.
FULL := speculate=always,window_end=full

latency: install  ## the parts of a step where the draft waits its turn, and the step where it does not; 10 minutes
	$(BIN)/sglang-mirror bench run --enlarge own 0.25b+12m --temperature 0 1 --questions 4 --tokens 96 \
		--arms serial:$(FULL) mirror:roots=draft,$(FULL) mirror:roots=union,$(FULL) --json out/latency.json

bench-stream: install  ## serial and mirror with either draft, and chain against tree; 20 to 30 minutes
	$(BIN)/sglang-mirror bench run --enlarge own 0.25b+12m --temperature 0 1 --questions 4 --tokens 72 \
		--together 4 --json out/stream.json \
		--arms plain serial:draft=plain mirror:draft=plain mirror:draft=streaming serial:draft=streaming \
		mirror:window=chain mirror:window=tree

# The target waits for every window, however long it takes.
EITHER := serial:draft=plain,gamma=7,miss_wait_ms=1000,$(FULL) serial:draft=streaming,gamma=7,miss_wait_ms=1000,$(FULL)

bench-windows: install  ## what a window of 7 takes of either draft, and 16 nodes as a chain and a tree; 10 minutes
	$(BIN)/sglang-mirror bench run --temperature 0 1 --questions 16 --tokens 72 --json out/windows.json \
		--arms plain $(EITHER) serial:window=chain,$(FULL) serial:window=tree,$(FULL)
	$(BIN)/sglang-mirror bench run --enlarge 0.25b+33m --questions 4 --tokens 72 --json out/windows-33m.json \
		--arms plain $(EITHER)

gpu-check: install  ## on a machine with a GPU: kernels, the captured signal, and text on every backend
	$(BIN)/python -m pytest -rA tests/kernels tests/draft/test_graphed.py tests/gpu

gpu-bench: install  ## on a machine with a GPU: targets of real size, the signal's way out, the draft's forwards
	$(BIN)/python -m sglang_mirror.bench.gpu

soak: install  ## every kind of request for ten minutes: nothing lost, no wrong text, no growing memory
	$(BIN)/python -m sglang_mirror.bench.soak --minutes 10 --json out/soak.json

faults: install  ## the same for three minutes, while the draft is killed, ended and stopped
	$(BIN)/python -m sglang_mirror.bench.soak --minutes 3 --faults --json out/faults.json

tune: install  ## settings over a grid, each beside mirror's present ones; 35 minutes
	$(BIN)/sglang-mirror bench run --enlarge own 0.25b+12m --questions 4 --tokens 96 --repeats 2 --together 4 \
		--arms mirror $(GRID) --json out/tune.json

results: install  ## four of docs/results.md's files anew (speed, both identities, law) and the pages; about an hour on two idle cores
	mkdir -p docs/results
	$(BIN)/sglang-mirror bench run --arms plain serial mirror mirror:roots=draft plain:cores=all --repeats 7 --json docs/results/speed.json
	$(BIN)/python -m sglang_mirror.bench.identity --out docs/results/identity.json
	$(BIN)/python -m sglang_mirror.bench.identity --dtype bfloat16 --out docs/results/identity-bfloat16.json
	$(BIN)/python -m sglang_mirror.bench.law --out docs/results/law.json
	$(BIN)/python -m sglang_mirror.bench.results

test: install  ## what starts no server, two at a time; then what starts servers, which want both cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --ignore tests/e2e
	$(BIN)/python -m pytest tests/e2e

check: install
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
