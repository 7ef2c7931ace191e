# Everything runs from .venv, which the first target builds. Needs Python 3.11 or newer, git and make.
#   make demo    install, train on the built-in shapes, evaluate, predict, and name the pictures
#   make test    the test suite          make check   format, lint, types, tests
#   make format  put the code in order   make clean   remove what was built, except runs/

BIN := .venv/bin

.PHONY: help demo test test-slow check format lint types clean
.DEFAULT_GOAL := help

help:
	@sed -n '2,4s/^# *//p' Makefile

demo: .venv/.installed
	@sh tools/demo.sh $(BIN)

test: .venv/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# Packages built and installed into empty environments, and other tests of minutes.
test-slow: .venv/.installed-dev
	$(BIN)/python -m pytest -m slow

check: lint types test

lint: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.installed-dev
	$(BIN)/mypy

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find detrctl tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are younger than pyproject.toml exactly when what it asks for is installed.
.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "Installing detrctl into .venv (PyTorch is large: the first time takes minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing detrctl and its development tools into .venv (PyTorch is large: the first time takes minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/.installed $@

.venv/bin/python:
	@sh tools/make_venv.sh .venv
