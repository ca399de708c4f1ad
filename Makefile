# `make demo` and `make test` work on a fresh machine: each creates .venv when it is missing.
PYTHON ?= python3.11
PIP_FLAGS ?= -q --disable-pip-version-check

.PHONY: demo test lint install clean

demo: .venv/installed
	test -f runs/demo.key || .venv/bin/fedseal key new runs/demo.key
	.venv/bin/fedseal simulate --key-file runs/demo.key --keep-sites --export
	.venv/bin/fedseal ledger verify --site runs/latest/sites/site-0

test: .venv/installed lint
	.venv/bin/python -m pytest

lint: .venv/installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	.venv/bin/pip install $(PIP_FLAGS) -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
