# Everything happens inside the project: its environment is .venv, its downloads are in .cache.
# The engines that can be read batch by batch run on CPython 3.11, the demo's among them.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(VENV)/.native
NATIVE_SOURCES := $(wildcard collectors/native/src/*.rs collectors/native/src/*/*.rs) collectors/native/Cargo.toml collectors/native/Cargo.lock collectors/native/pyproject.toml

.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

install: $(INSTALLED) native ## Install the project and its tools into .venv

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -q --editable '.[all]' --group dev
	@touch $@

native: $(INSTALLED) ## Build and install the native sampler (needs Rust)
	@if command -v cargo >/dev/null; then $(MAKE) -s $(NATIVE); else \
	  echo "Rust was not found, so the native sampler is not built: engines will be watched by"; \
	  echo "/metrics only. Get Rust from https://rustup.rs and run 'make native'."; fi

$(NATIVE): $(NATIVE_SOURCES) | $(INSTALLED)
	$(BIN)/python -m pip install -q --force-reinstall --no-deps ./collectors/native
	@touch $@

demo: install ## Show the whole product on this machine, about two minutes
	$(BIN)/latencyprism demo

pythons: install ## Download CPython 3.11 to 3.14 for the tests of the sampler (needs Maven)
	$(BIN)/python tests/pythons/interpreters.py

test: install ## All tests but those that need a Kafka of their own
	$(BIN)/python -m pytest -m 'not integration'

test-fast: install ## The tests that start no process
	$(BIN)/python -m pytest -m 'not integration and not process and not pipeline'

integration: install ## Tests against a real Apache Kafka (needs Java 17 and Maven)
	$(BIN)/python -m pytest -m integration

lint: install ## Style, formatting and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install ## Static types
	$(BIN)/mypy schemas collectors models streams simulator latencyprism tests benchmarks
	$(BIN)/pyright --pythonpath $(BIN)/python

rust: ## Tests, lints and format of the native sampler
	cd collectors/native && cargo fmt --check && cargo clippy --all-targets --locked -- -D warnings && cargo test --locked

check: lint types rust test integration ## Everything that CI runs

schemas: install ## Write schemas/json anew from the records
	$(BIN)/python -m schemas.generate

bench-agent: install ## CPU of the agent for each watched engine
	$(BIN)/python benchmarks/agent.py

bench-profiles: install ## How exactly each engine version is read on each Python
	$(BIN)/python benchmarks/profiles.py

bench-engine: install ## A real vLLM against its own record: make bench-engine ENGINE="vllm serve MODEL --port 18000"
	@test -n '$(ENGINE)' || { echo 'Name the engine: make bench-engine ENGINE="vllm serve MODEL --port 18000"'; exit 2; }
	$(BIN)/python -m benchmarks.engine --port 18000 -- $(ENGINE)

bench-latency: install ## Milliseconds from a batch's end to the webhook, on a real Kafka
	$(BIN)/python benchmarks/latency.py

bench-detect: install ## Prediction error, false alarms and detection on real batches, beside other models
	$(BIN)/python -m benchmarks.detection

bench-explain: install ## How often the right cause is named: public captures, two faults at once
	$(BIN)/python -m benchmarks.explain

bench-fuzz: install ## Wrong values and panics on a million fuzzed reads and hostile engines (needs Rust)
	$(BIN)/python benchmarks/fuzz.py

bench-fleet: install ## Simulated engines on one core, and the simulation against real batches
	$(BIN)/python -m benchmarks.fleet

bench-effects: install ## How much each real fault slows the replica, by severity
	$(BIN)/python -m benchmarks.effects

gym: install ## Real and simulated faults and controls, and the score of what was said of them
	$(BIN)/python -m benchmarks.gym

clean: ## Remove everything that was built or downloaded
	rm -rf $(VENV) .cache build dist demo-data gym-data .mypy_cache .ruff_cache .pytest_cache collectors/native/target

.PHONY: help install native demo pythons test test-fast integration lint types rust check schemas bench-agent bench-profiles bench-engine bench-latency bench-detect bench-explain bench-fuzz bench-fleet bench-effects gym clean
