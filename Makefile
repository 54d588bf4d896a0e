# `make check` is exactly what CI runs; every target works from a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: setup demo demo-networks demo-page test coverage docs lint hooks configs-readme check check-oldest check-slow clean

setup: $(STAMP)

# The stamp keeps the environment until a dependency changes.
$(STAMP): requirements.txt setup.py
	@echo "setup: creating .venv (the first time downloads several GB and takes minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "setup: wanted Python >= 3.10, got " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setup: installing requirements.txt"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@echo "setup: installing msvit_mm"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
	@echo "setup: done"

# Train on generated scenes, then the same network under its gate and under stand-ins.
DEMO := configs/msvit_upernet_scenes.py
SEED ?= 0
demo: setup
	$(BIN)/python tools/train.py $(DEMO) --work-dir work_dirs/demo --cfg-options randomness.seed=$(SEED)
	$(BIN)/python tools/compare_gates.py $(DEMO) "$$(cat work_dirs/demo/last_checkpoint)" \
		--work-dir work_dirs/demo --out-dir work_dirs/demo/gates --overwrite --cfg-options randomness.seed=$(SEED)

# The page of `msvit demo` on these networks.
demo-page: demo-networks
	@$(BIN)/python -c 'import gradio' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[demo]'
	$(BIN)/python tools/demo.py $$(cat work_dirs/demo/last_checkpoint work_dirs/camvid/last_checkpoint 2>/dev/null)

# Networks for the page, trained where they are not there: Scenes (generated) and, where data/camvid is, CamVid.
CAMVID := configs/msvit_upernet_camvid.py
demo-networks: setup
	@test -f work_dirs/demo/last_checkpoint || $(BIN)/python tools/train.py $(DEMO) --work-dir work_dirs/demo
	@test -f work_dirs/camvid/last_checkpoint || ! test -d data/camvid || \
		$(BIN)/python tools/train.py $(CAMVID) --work-dir work_dirs/camvid

# The site, in build/site; warnings are errors. Tools, configs and models are written from the code.
docs: setup
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Two processes of one thread each: more threads only wait for each other on networks this small.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n 2

# The same, and which lines of the package they run; fails below the floor in pyproject.toml.
coverage: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n 2 --cov=msvit_mm --cov-report=term:skip-covered

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m msvit_mm.cli.config_index --check

# The table of configs/README.md, from the docstrings of the configs.
configs-readme: setup
	$(BIN)/python -m msvit_mm.cli.config_index

check: lint coverage

# The tests on the oldest versions that setup.py allows, in an environment of their own.
OLDEST := .venv-oldest/bin/python
check-oldest:
	@test -x $(OLDEST) || $(PYTHON) -m venv .venv-oldest
	@echo "check-oldest: installing requirements-oldest.txt into .venv-oldest"
	@$(OLDEST) -m pip install --quiet --disable-pip-version-check -r requirements-oldest.txt
	@$(OLDEST) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	OMP_NUM_THREADS=1 $(OLDEST) -m pytest -q -m "not slow" -n 2

# Let git run .pre-commit-config.yaml before every commit.
hooks: setup
	$(BIN)/pre-commit install

# With the page in a browser where chromium is installed (on Debian: apt-get install chromium).
check-slow: setup
	@$(BIN)/python -c 'import gradio, mim, playwright' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet -e '.[demo]' onedl-mim playwright
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -q -m slow

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .coverage
