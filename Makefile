# Two commands do everything: `make demo` and `make test`.
VENV ?= .venv
PYTHON ?= python3
DEMO_DIR ?= demo-checkpoints
DEMO_STEPS ?= 300
PIP = $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/analyzer demo $(DEMO_DIR) --steps $(DEMO_STEPS)

test: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2
