# mobync: every target does its own set-up, on Debian or Ubuntu, as root or with sudo.

PYTHON ?= python3
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
DEPLOY := nginx-light openssl systemd galera-4 rsync
RUN_EXTRAS := server,client,examples
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

# The to-do app in the browser, from packages of npm; without npm the rest is served.
TODO := examples/todo
TODO_SOURCES := $(filter-out %/dist,$(wildcard $(TODO)/*.*)) $(wildcard clients/javascript/*.js)

.PHONY: todo
todo: ## Build the to-do app, if npm is there
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(TODO)/dist/todo.js; \
	else echo "npm is missing: install Node 20 or later with npm for the to-do app at /todo/" >&2; fi

$(TODO)/dist/todo.js: $(TODO_SOURCES)
	rm -rf $(TODO)/node_modules/mobync
	cd $(TODO) && npm install --install-links --no-package-lock --no-audit --no-fund && npm run build
	@touch $@

.PHONY: run
run: PORT ?= 5000
run: $(VENV)/.running todo ## Serve a demo database with its inspector and a to-do app, and two devices that keep editing (PORT)
	$(BIN)/mobync demo --port $(PORT) $(if $(wildcard $(TODO)/dist/todo.js),--todo $(TODO)/dist)

.PHONY: demo
demo: $(VENV)/.running ## Play two devices over HTTP, on an own server or on URL (with TOKEN), and tell what happens
	$(BIN)/python examples/demo.py $(if $(URL),--url $(URL)) $(if $(TOKEN),--token $(TOKEN))

.PHONY: test
test: setup test-core test-python test-sanitized test-refcounts ## Run all tests

.PHONY: services
services: setup ## See to it that PostgreSQL, MariaDB, Redis, nginx and a browser are there, for the tests
	sh .ci/services
	sh .ci/packages $(BROWSER) $(DEPLOY)

# What the tests of the npm package need; of npm itself the Makefile says what to install.
JAVASCRIPT := clients/javascript
JAVASCRIPT_MODULES := $(JAVASCRIPT)/node_modules/.installed

$(JAVASCRIPT_MODULES): $(JAVASCRIPT)/package.json
	@command -v npm >/dev/null || { echo "npm is missing: install Node 20 or later with npm" >&2; exit 1; }
	cd $(JAVASCRIPT) && npm install --no-package-lock --no-audit --no-fund
	@mkdir -p $(@D) && touch $@

.PHONY: test-javascript
test-javascript: setup $(JAVASCRIPT_MODULES) ## Run the tests of the npm package
	$(BIN)/python -m pytest -q tests/test_javascript_clients.py

.PHONY: test-python
test-python: services $(JAVASCRIPT_MODULES) ## Run the Python tests
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

.PHONY: test-async
test-async: services ## Run all tests of the SQLAlchemy stores on each driver that is awaited
	MOBYNC_TEST_ALL_ASYNC=1 $(BIN)/python -m pytest -q -n $(WORKERS) tests/test_async.py

.PHONY: test-core
test-core: tools ## Run the C tests of the core: plain, sanitized, valgrind, threads
	$(MAKE) -C tests/core test words sanitize valgrind
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

# The tests of the merge, the binding, the memory store, the client and the route: those that need
# no database server, no browser and no Node.  Those of CONTRIBUTING.md's words are in .ci/lint.
CHECKED := apply apply_json architecture awaitables client client_conformance compaction \
    configuration conformance_of_apply crossings example_in_memory extension_types form http \
    http_adapters http_docs members memory_synchronizer merge named_devices named_rules \
    owner_locks paging reentry refusals retries server_edits threads

.PHONY: check
check: tools ## Check style and types, and run the tests that need no server: two minutes
	@mkdir -p build
	PYTHON=$(BIN)/python sh .ci/lint >build/lint.log 2>&1 & lint=$$!; \
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not long" \
	    -k "not postgresql and not mariadb" $(CHECKED:%=tests/test_%.py); tests=$$?; \
	wait $$lint || { cat build/lint.log; exit 1; }; exit $$tests

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
bench: services $(VENV)/.bench ## Measure; print tables, write JSON and a chart (QUICK=1: a few minutes; ONLY=small)
	$(BIN)/python bench/run.py $(if $(QUICK),--quick,$(if $(ONLY),--write)) $(ONLY)

$(VENV)/.bench: $(VENV)/.developing | tools
	@$(BIN)/python -m pip install -q -e '.[bench]'
	@touch $@

.PHONY: docs
docs: PORT ?= 8080
docs: $(VENV)/.system ## Serve the documentation's site, as it is while you edit (PORT)
	$(call install,docs)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:$(PORT)

.PHONY: wheels
wheels: setup ## Build an sdist and a wheel for each Python here into dist/, and use each
	@$(BIN)/python -m pip install -q -e '.[wheels]'
	@bash .ci/wheels

.PHONY: next-python
next-python: setup ## Put CPython 3.14 of Debian's testing into build/, for `make wheels`
	sh .ci/next_python

.PHONY: work
work: tools ## Count the work of a fixed merge and sync; fail if it is 10 % over the baseline
	$(BIN)/python bench/work.py --check

.PHONY: clean
clean: ## Remove what was built
	rm -rf build dist $(VENV) mobync/*.so *.egg-info
