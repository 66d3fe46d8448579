# Needs Python 3.11 or newer and make; everything else comes into .venv from the lock files in requirements/.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
# The first Python here that is new enough.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
# Set to pass options on: make test PYTEST="-x -k merge"; one process, to see what is printed: PYTEST="-n 0 -s"
PYTEST ?=
BENCH ?=

.PHONY: help run test lint bench lock clean
.DELETE_ON_ERROR:

help: ## This list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

run: export USERSYNC_CONFIG = config.example.yaml
run: $(VENV)/.embedded ## Try usersync: install it, make three test users, run the job auroville on them.
	@$(BIN)/usersync seed --job auroville
	@$(BIN)/usersync run --job auroville
	@echo
	@$(BIN)/usersync status
	@echo
	@echo "Look at the result:    $(BIN)/usersync db shell --config $(USERSYNC_CONFIG)"
	@echo "Once more, unchanged:  make run"
	@echo "Your own:              $(BIN)/usersync init"

test: $(VENV)/.dev ## Run all tests, on real PostgreSQL servers that they start themselves.
	@$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST)

lint: $(VENV)/.dev ## ruff, mypy --strict, codespell.
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/codespell

bench: $(VENV)/.dev ## Measure against psql on a million users; takes minutes.
	@$(BIN)/python -m benchmarks $(BENCH)

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "usersync needs Python 3.11 or newer with its venv module; name it with make PYTHON=..." >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# A stamp for what is installed: made anew when the lock or pyproject.toml is. The package itself is linked, not copied.
$(VENV)/.embedded $(VENV)/.dev: $(VENV)/.%: requirements/%.lock pyproject.toml | $(BIN)/pip
	@echo "Installing what requirements/$*.lock lists"
	@$(PIP) install --require-hashes -r requirements/$*.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q usersync_cli # where Python may not write bytecode later, each run would pay 0.1 s
	@touch $@

# Python 3.11, the oldest: what only newer ones can leave out must be in the lock. dev is solved first and holds everything;
# the others are parts of it with the same versions. No option and no address of an index ends up in the files.
LOCK_PYTHON ?= python3.11
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/pip-compile --quiet --generate-hashes --strip-extras --no-annotate \
	--allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options $(LOCK)

lock: ## Solve the dependencies again; make lock LOCK=--upgrade takes newer versions.
	@mkdir -p requirements
	@$(LOCK_PYTHON) -m venv build/lock
	@build/lock/bin/pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	@build/lock/bin/python -c 'import tomllib; \
		project = tomllib.load(open("pyproject.toml", "rb")); \
		open("build/build.in", "w").write("\n".join(project["build-system"]["requires"]) + "\n"); \
		open("build/dev.in", "w").write("\n".join(project["dependency-groups"]["dev"]) + "\n")'
	@$(COMPILE) --extra embedded -o requirements/dev.lock pyproject.toml build/build.in build/dev.in
	@$(COMPILE) -c requirements/dev.lock --extra embedded -o requirements/embedded.lock pyproject.toml build/build.in
	@$(COMPILE) -c requirements/dev.lock -o requirements/runtime.lock pyproject.toml
	@$(COMPILE) -c requirements/dev.lock -o requirements/build.lock build/build.in

clean: ## Remove what make and the tools made here; the embedded databases stay.
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find usersync_cli tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
