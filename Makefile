# make quickstart   set up, then the whole job on generated data (minutes on two cores)
# make test         set up, then lint, types and tests
# make test-slow    the long tests (three seeds, real data)
# make rehearse     three iterations of each row of the papers' tables, in the real data's layouts
# make test-lowest  the tests with the lowest versions that setup.cfg allows, in .venv-lowest
# make lint         ruff and mypy alone
# make docs         the site of the documentation, build/site/index.html
# make bench        the measurements in benchmarks/
# make setup        only create or update .venv
# make clean        remove the environments and caches; keeps output/ and datasets/
# make help         print these lines

PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# Without the last four, what tests of exported networks, of timm's and of the site need is missing,
# and they are skipped.
EXTRAS := dev,cluster,coco,torchjd,tune,onnx,openvino,timm,docs
# Test processes, one for each core and at most four; the tests of a file stay together and share
# its fixtures. The longest files come first (tests/conftest.py).
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Set up again when one of these is newer than the stamp.
SETUP_INPUTS := setup.cfg pyproject.toml $(CONSTRAINTS) tools/install_detectron2.py \
	$(wildcard tools/detectron2_patches/*.py tools/detectron2_patches/*.toml)
STAMP := $(VENV)/.setup-done

.PHONY: help quickstart test test-slow rehearse test-lowest lint docs bench setup clean

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

quickstart: setup
	$(PY) tools/quickstart.py

test: setup lint
	$(PY) -m pytest $(PARALLEL)

test-slow: setup
	$(PY) -m pytest -m slow

rehearse: setup
	@# Polygons of Cityscapes need these; the other rows do without.
	-$(PIP) install --quiet --no-deps --target build/cityscapes cityscapesscripts shapely
	PYTHONPATH=build/cityscapes $(PY) tools/reproduce.py all --scale full --rehearse --jobs 2

test-lowest:
	$(MAKE) setup VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt \
		EXTRAS=dev,cluster,coco,torchjd,tune
	.venv-lowest/bin/python -m pytest $(PARALLEL)

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs --quiet build --strict --config-file docs/site/mkdocs.yml
	@echo "build/site/index.html"

bench: setup
	@# A detector to compare with, apart from the environment; the benchmark does without it, too.
	-$(PIP) install --quiet --no-deps --target build/ultralytics ultralytics ultralytics-thop \
		ultralytics-platform polars polars-runtime-32 psutil
	YOLO_CONFIG_DIR=build YOLO_AUTOINSTALL=false PYTHONPATH=build/ultralytics \
		$(PY) benchmarks/run.py

setup: $(STAMP)

$(STAMP): $(SETUP_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		"Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=...")'
	@test -x $(PY) || { echo "== creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "== installing torch (the first time takes a few minutes)"
	@# torch before the rest: torchvision then accepts the build that is there, and what has to be
	@# compiled without build isolation finds setuptools.
	$(PIP) install --quiet -c $(CONSTRAINTS) setuptools torch
	$(PIP) install --quiet -c $(CONSTRAINTS) --no-deps torchvision
	@echo "== installing multas and its dependencies"
	$(PIP) install --quiet -c $(CONSTRAINTS) --no-build-isolation -e '.[$(EXTRAS)]'
	@echo "== installing Detectron2"
	$(PY) tools/install_detectron2.py
	@touch $(STAMP)
	@echo "== ready: $(VENV)"

clean:
	rm -rf $(VENV) .venv-lowest build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find projects tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf projects/*.egg-info
