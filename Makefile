# make test, make test-slow and make demo each make their own virtual environment, .venv.

# The first Python from 3.11 to 3.13 that can make virtual environments.
SUPPORTED = import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && { echo $$python; break; }; done)
RUN = .venv/bin/python -m

.PHONY: test test-slow lint demo clean

test: lint
	$(RUN) pytest -n auto

test-slow: .venv/installed
	$(RUN) pytest -n auto -m slow

lint: .venv/installed
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

demo: .venv/installed
	$(RUN) bench.demo

clean:
	rm -rf .venv

.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(RUN) pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@
