# mobync: every target does its own set-up, on Debian or Ubuntu, as root or with sudo.

PYTHON ?= python3
PORT ?= 5000
RUNS ?= 10000
SEED ?= 1
STORE ?= memory
APPLIES ?= 1000000
SECONDS ?= 60

# Pytest's; more than cores, since many tests wait for servers.
WORKERS ?= 4

VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.[ch]') setup.py pyproject.toml mobync/__init__.py

BUILD_PACKAGES := gcc make pkg-config libcjson-dev python3-venv python3-dev
TEST_PACKAGES := clang clang-format clang-tidy cppcheck valgrind
BROWSER := chromium
RUN_EXTRAS := server,examples
TEST_EXTRAS := test,dev

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

.PHONY: setup
setup: $(VENV)/.developing ## Install what is missing and build the extension

$(VENV)/.system:
	sh .ci/packages $(BUILD_PACKAGES)
	@mkdir -p $(VENV) && touch $@

.PHONY: tools
tools: setup $(VENV)/.tools

$(VENV)/.tools:
	sh .ci/packages $(TEST_PACKAGES)
	@touch $@

define install # with the extras $(1)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --upgrade pip
	@$(BIN)/python -m pip install -q -e '.[$(1)]'
endef

$(VENV)/.running: $(VENV)/.system $(SOURCES)
	$(call install,$(RUN_EXTRAS))
	@touch $@

$(VENV)/.developing: $(VENV)/.system $(SOURCES)
	$(call install,$(TEST_EXTRAS))
	@touch $(VENV)/.running $@

.PHONY: run
run: $(VENV)/.running ## Serve a demo database with its inspector, and two devices that keep editing (PORT)
	$(BIN)/python examples/live.py --port $(PORT)

.PHONY: demo
demo: $(VENV)/.running ## Play two devices over HTTP, on an own server or on URL, and tell what happens
	$(BIN)/python examples/demo.py $(if $(URL),--url $(URL))

.PHONY: test
test: setup test-core test-python test-sanitized test-refcounts ## Run all tests

.PHONY: services
services: setup ## See to it that PostgreSQL, MariaDB, Redis and a browser are there, for the tests
	sh .ci/services
	sh .ci/packages $(BROWSER)

.PHONY: test-python
test-python: services ## Run the Python tests
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

.PHONY: test-core
test-core: tools ## Run the C tests of the core: plain, sanitized, valgrind, threads
	$(MAKE) -C tests/core test sanitize valgrind
	sh tests/isolated/run_tsan.sh

.PHONY: test-sanitized
test-sanitized: tools ## Run the Python tests of the extension under ASan and UBSan
	PYTHON=$(BIN)/python sh tests/isolated/run_sanitized.sh

.PHONY: test-refcounts
test-refcounts: tools ## Count every reference, on a debug build of Python
	PYTHON=$(BIN)/python sh tests/isolated/run_refcounts.sh

.PHONY: lint
lint: tools ## Check warnings, layers, style, types, stubs; analyse the C
	PYTHON=$(BIN)/python sh .ci/lint
	PYTHON=$(BIN)/python sh .ci/static

.PHONY: simulate
simulate: setup ## Play RUNS random histories from SEED on STORE
	cd tests && ../$(BIN)/python -m simulation --runs $(RUNS) --seed $(SEED) --store $(STORE)

.PHONY: rss
rss: setup ## Apply APPLIES times, a million, and see that the process does not grow
	$(BIN)/python tests/isolated/rss.py $(APPLIES)

.PHONY: fuzz
fuzz: tools ## Fuzz every target for SECONDS each
	sh fuzz/run.sh $(SECONDS)
	PYTHON=$(BIN)/python sh fuzz/run_python.sh $(SECONDS)

.PHONY: fuzz-sample
fuzz-sample: tools ## Fuzz the core with the same few inputs each time
	sh fuzz/run.sh sample

.PHONY: bench
bench: services $(VENV)/.bench ## Measure; print tables, write JSON and a chart (QUICK=1: a minute)
	$(BIN)/python bench/run.py $(if $(QUICK),--quick)

$(VENV)/.bench: $(VENV)/.developing | tools
	@$(BIN)/python -m pip install -q -e '.[bench]'
	@touch $@

.PHONY: work
work: tools ## Count the work of a fixed merge and sync; fail if it is 10 % over the baseline
	$(BIN)/python bench/work.py --check

.PHONY: clean
clean: ## Remove what was built
	rm -rf build dist $(VENV) mobync/*.so *.egg-info
