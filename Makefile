# `make check` and `make docs` are what CI runs; every target works from a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: setup demo demo-networks demo-page test coverage docs lint hooks configs-readme check check-oldest check-slow clean

setup: $(STAMP)

# The stamp keeps the environment until a dependency changes.
$(STAMP): requirements.txt setup.py
	@echo "setup: creating .venv (the first time downloads several GB and takes minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "setup: wanted Python >= 3.11, as the pinned packages do, got " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setup: installing requirements.txt"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@echo "setup: installing msvit_mm"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
	@echo "setup: done"

# A dense network on generated scenes; from it one of mixed scales and its controls, all trained alike, two at a time; then
# all of them against their cost, and the one swept from all coarse to all fine. What is trained is kept.
SEED ?= 0
DEMO := work_dirs/demo/seed$(SEED)
START_STEPS ?= 900
STEPS ?= 450
START := $(DEMO)/start/iter_$(START_STEPS).pth
mixed_CONFIG := configs/studies/transfer/from_dense_upernet_scenes.py
edges_CONFIG := configs/studies/transfer/from_dense_edge_upernet_scenes.py
random_CONFIG := configs/studies/transfer/from_dense_random_upernet_scenes.py
dense_CONFIG := configs/studies/baselines/dense_continued_upernet_scenes.py
lowres_CONFIG := configs/studies/baselines/lowres_continued_upernet_scenes.py
NETWORKS := $(foreach name,mixed dense edges random lowres,$(DEMO)/$(name)/iter_$(STEPS).pth)
entry = config: $($(1)_CONFIG), checkpoint: $(DEMO)/$(1)/iter_$(STEPS).pth
steps = randomness.seed=$(SEED) train_cfg.max_iters=$(1) train_cfg.val_interval=$(1) param_scheduler.1.end=$(1) \
	default_hooks.checkpoint.interval=$(1)

# One thread a process: more only wait for each other on networks this small.
demo: export OMP_NUM_THREADS := 1
demo: setup
	@$(MAKE) --no-print-directory $(START)
	@$(MAKE) --no-print-directory -j 2 $(NETWORKS)
	@printf '%s\n' $(foreach name,edges random lowres dense,'- {name: $(name), $(call entry,$(name))}') \
		'- {name: mixed, $(call entry,mixed), budgets: [36, 49, 63, 81, 108, 144]}' > $(DEMO)/networks.yml
	$(BIN)/python tools/plot_tradeoff.py $(DEMO)/tradeoff --list $(DEMO)/networks.yml --overwrite
	$(BIN)/python tools/compare_gates.py $(mixed_CONFIG) $(DEMO)/mixed/iter_$(STEPS).pth --out-dir $(DEMO)/gates --overwrite \
		--beside dense $(dense_CONFIG) $(DEMO)/dense/iter_$(STEPS).pth --cfg-options randomness.seed=$(SEED)

$(START):
	$(BIN)/python tools/train.py configs/studies/baselines/dense_fine_upernet_scenes.py --work-dir $(@D) \
		--cfg-options $(call steps,$(START_STEPS))

$(NETWORKS): $(DEMO)/%/iter_$(STEPS).pth: | $(START)
	$(BIN)/python tools/train.py $($*_CONFIG) --work-dir $(@D) --cfg-options $(call steps,$(STEPS)) load_from=$(START)

# The page of `msvit demo` on these networks.
demo-page: demo-networks
	@$(BIN)/python -c 'import gradio' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[demo]'
	$(BIN)/python tools/demo.py $$(for run in $(DEMO)/mixed work_dirs/camvid; do \
		if test -f $$run/last_checkpoint; then cat $$run/last_checkpoint; echo; fi; done)

# Networks for the page, trained where they are not there: Scenes (generated) and, where data/camvid is, CamVid, by a
# quarter of its recipe; CAMVID_STEPS=2500 is all of it.
CAMVID := configs/msvit_upernet_camvid.py
CAMVID_STEPS ?= 625
demo-networks: export OMP_NUM_THREADS := 1
demo-networks: setup
	@$(MAKE) --no-print-directory $(DEMO)/mixed/iter_$(STEPS).pth
	@test -f work_dirs/camvid/last_checkpoint || ! test -d data/camvid || \
		$(BIN)/python tools/train.py $(CAMVID) --work-dir work_dirs/camvid --cfg-options $(call steps,$(CAMVID_STEPS))

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
	@$(BIN)/python -c 'import gradio, mim, playwright, material, mkdocstrings' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet -e '.[demo,docs]' onedl-mim playwright
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -q -m slow

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .coverage
