PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BUDGET ?= 60m
TESTS := tests

.PHONY: help setup demo test proofs chaos mutants bench lint check format pins wheel deb deb-check deb-trial shares clean

help:  ## what there is to make
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## a virtual environment in .venv, with all that the rest needs

$(STAMP): pyproject.toml deploy/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup  ## mirror real files from the bundled VMS simulator
	$(BIN)/archive-mirror demo

test: setup  ## run the tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not proof" $(TESTS)

proofs: setup  ## the short form of the proofs, and what else takes long
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m proof $(TESTS)

chaos: setup  ## the proofs at length, within BUDGET (90s, 60m, 2h)
	$(BIN)/python -m pytest -q -s tests/proof --chaos $(BUDGET)

mutants: setup  ## mutation testing of the modules that must not fail
	for module in pipeline/fetch/attempt pipeline/fetch/download pipeline/fetch/receive \
		pipeline/spool/spool pipeline/spool/part pipeline/publish/publisher \
		pipeline/publish/attempt disk/lanes; do \
		$(BIN)/python -m tests.mutants mirror/$$module.py; done

lint: setup  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## lint and tests

format: setup  ## bring the code into form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

pins: setup  ## the digests of all that is shipped, at the versions of the constraints
	$(BIN)/python -m deploy.pins

bench: setup  ## beside rclone, curl, wget2, aria2 (apt: nginx-light curl wget2 aria2)
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[bench]'
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m bench $(BENCH)

wheel: setup  ## the wheel, into dist/, for pipx
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

deb:  ## the Debian package, into dist/
	deploy/debian/build

deb-check: deb  ## install, run, upgrade, remove it on a clean Debian (root; 5 minutes)
	/usr/bin/python3 -m tests.system.check

deb-trial: setup deb  ## five failures beside Prometheus, mended by the book (root; 40 minutes)
	/usr/bin/python3 -m tests.system.trial

shares: deb  ## keep footage on NFS and SMB shares that fail (root; 15 minutes)
	/usr/bin/python3 -m tests.system.shares

clean:  ## remove what was made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
