# make demo · make test: everything that is needed, on a machine with Python 3.11+ and this make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
LEAN := .venv-lean/bin
PARITY := .venv-parity/bin

.PHONY: demo test lint lean test-parity bench golden clean

demo: .venv/.demo
	$(BIN)/python benchmarks/demo.py

test: .venv/.test
	$(BIN)/python -m pytest -m "not parity"

lint: .venv/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The runtime's tests where nothing but the core and the cpu extra is installed.
lean: .venv-lean/.ready
	$(LEAN)/python -m pytest -m "not parity and not compiler" \
	  tests/lean tests/unit/bundle tests/unit/runtime tests/unit/measure tests/property tests/golden

# Against live transformers and optimum, with torch.
test-parity: .venv-parity/.ready
	$(PARITY)/python -m pytest tests/parity

golden: .venv-parity/.ready
	PYTHONPATH=. $(PARITY)/python tests/golden/make.py
	PYTHONPATH=. $(PARITY)/python tests/golden/make_sentencepiece.py

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

clean:
	rm -rf build .venv .venv-lean .venv-parity
