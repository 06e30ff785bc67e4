# A Debian machine with make and Python 3.11 or newer gets the rest from here.

PYTHON ?= python3

# One for each Python, so that .ci/run can go through them.
VENV := .venv/$(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
BIN := $(VENV)/bin

# The Debian packages whose commands some tests run.
TEST_PACKAGES := iproute2 libcap2-bin opendoas procps strace sudo systemd util-linux

.PHONY: demo test check pytest bench format clean
.NOTPARALLEL:

demo: $(VENV)/installed
	$(BIN)/python3 examples/demo.py

test: check pytest

# What does not depend on the Python: once is enough.
check: $(VENV)/developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python3

pytest: $(VENV)/developing $(VENV)/oslo/made
	@tests/system-packages.sh $(TEST_PACKAGES)
	$(BIN)/python3 tests/side_by_side.py

bench: $(VENV)/installed
	$(BIN)/python3 -m benchmarks

format: $(VENV)/developing
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .bench .hypothesis .*_cache build dist

# The two files below stand for what was installed, and when.  The package is
# installed by reference (-e), so only what pyproject.toml says can outdate it.

$(VENV)/installed: pyproject.toml $(wildcard scripts/*)
	@$(PYTHON) -c 'import ensurepip' || tests/system-packages.sh python3-venv
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

# What the tests of oslo/ compare, see there.
$(VENV)/oslo/made: $(VENV)/developing oslo/tests/make_environments.py $(wildcard oslo/tests/*.txt)
	$(BIN)/python3 oslo/tests/make_environments.py $(VENV)/oslo
	touch $@

$(VENV)/developing: $(VENV)/installed oslo/pyproject.toml $(wildcard oslo/scripts/*)
	$(BIN)/pip install --quiet 'pip>=25.1'  # the first that knows groups
	$(BIN)/pip install --quiet --group dev --editable ./oslo
	touch $@
