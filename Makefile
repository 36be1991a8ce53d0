# make demo · make test: everything that is needed, on a machine with Python 3.11+ and this make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
LEAN := .venv-lean/bin
PARITY := .venv-parity/bin
INTEROP := .venv-interop/bin

.PHONY: demo test lint lean test-parity interop golden clean

demo: .venv/.demo
	$(BIN)/python benchmarks/demo.py

test: .venv/.test
	$(BIN)/python -m pytest -m "not parity and not interop"

lint: .venv/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The runtime's tests where nothing but the core and the cpu extra is installed.
lean: .venv-lean/.ready
	$(LEAN)/python -m pytest -m "not parity and not compiler and not interop" \
	  tests/lean tests/unit/bundle tests/unit/runtime tests/unit/measure tests/property tests/golden

# Against live transformers and optimum, with torch.
test-parity: .venv-parity/.ready
	$(PARITY)/python -m pytest tests/parity

# Bundles in other libraries: those that need torch live in the parity environment.
interop: .venv-interop/.ready .venv-parity/.ready
	$(INTEROP)/python -m pytest -W ignore tests/interop
	$(PARITY)/python -m pytest -W ignore tests/interop

golden: .venv-parity/.ready
	PYTHONPATH=. $(PARITY)/python tests/golden/make.py
	for made in tests/golden/make_*.py; do PYTHONPATH=. $(PARITY)/python $$made; done

.venv/.made:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

.venv/.demo: .venv/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[export,cpu]'
	touch $@

.venv/.test: .venv/.demo
	$(BIN)/python -m pip install --quiet --group test
	touch $@

.venv/.lint: .venv/.test
	$(BIN)/python -m pip install --quiet --group lint
	touch $@

.venv-lean/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-lean
	$(LEAN)/python -m pip install --quiet --upgrade pip
	$(LEAN)/python -m pip install --quiet --editable '.[cpu]' pytest hypothesis
	touch $@

.venv-parity/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-parity
	$(PARITY)/python -m pip install --quiet --upgrade pip
	$(PARITY)/python -m pip install --quiet torch==2.13.0
	$(PARITY)/python -m pip install --quiet --editable '.[optimum,cpu]' --group parity
	touch $@

.venv-interop/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-interop
	$(INTEROP)/python -m pip install --quiet --upgrade pip
	$(INTEROP)/python -m pip install --quiet --editable '.[export,spacy]' --group interop
	touch $@

clean:
	rm -rf build .venv .venv-lean .venv-parity .venv-interop
