# Two commands for a fresh clone: make demo, make test. PYTHON=python3.12 picks another interpreter.
# Both install requirements.lock, whose versions and digests are what is tested.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin
# PyTorch is optional: the tests that compare with it are skipped where it is missing (make TORCH=).
TORCH ?= $(shell $(PYTHON) -c 'import sys; print("torch==2.13.0" * (sys.version_info[:2] == (3, 11)))')

.PHONY: demo test test-faults install lint clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(if $(TORCH),-$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH))
	touch $@

demo: install
	$(BIN)/python -m surgjax.demo --out $(DEMO)

test: $(VENV)/.tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-faults: $(VENV)/.tests
	SURGJAX_FAULT_TABLE=faults.md $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" tests/faults
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m faults tests/data_prep

lint: $(VENV)/.tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) $(DEMO)
