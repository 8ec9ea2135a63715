# On a fresh machine each of these does everything: `make demo`, `make test`, `make docs`.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test docs bench clean

demo: $(VENV)/demo.stamp
	$(VENV)/bin/sfumato demo
	@echo "open out/demo/index.html"

test: $(VENV)/test.stamp
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict
	@echo "open site/index.html"

bench: $(VENV)/bench.stamp
	$(VENV)/bin/python benchmarks/train.py

$(VENV)/%.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("sfumato needs Python 3.11 or newer; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) out site
