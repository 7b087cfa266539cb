PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo quickstart test test-avx2 dist lowest nightly check docs format bench coverage clean

help: ## This list.
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

# Pictures that corruptions need, and second opinions; what these packages pin is not installed.
REFERENCES := imagecorruptions==1.1.2 medmnistc==0.1.0 netcal==1.4.0 torchattacks==3.5.1

# One stamp for each set of extras, so that an environment is made once and updated when it must be;
# `dev` has the others. Python compiles packages on all cores and without their tests; pip on one.
$(VENV)/.installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip # uv made it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[$*]'
	test '$*' != dev || $(BIN)/python -m pip install --quiet --no-compile --no-deps $(REFERENCES)
	$(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true # some are no Python 3
	touch $@ $(if $(filter dev,$*),$(VENV)/.installed-docs $(VENV)/.installed-demo)

demo: $(VENV)/.installed-demo ## Show in a minute what fairweather does: a digit classifier in fog.
	$(BIN)/fairweather demo

quickstart: $(VENV)/.installed-demo ## Run the quickstart study: three recipes, three seeds each; minutes.
	$(BIN)/fairweather run quickstart

# Small tensors need one thread, and a module is compiled once for the processes that tests start.
QUICKLY := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

# Modules in order: the default puts those with few tests last, and some of them are the slowest. A
# process that ends, since a test hung in it, ends the run: another would hang in the same test.
BY_DAY := --numprocesses=auto --dist=loadscope --no-loadscope-reorder --max-worker-restart=0 \
	-o faulthandler_timeout=360

test: $(VENV)/.installed-dev ## Run all tests of a day, in parallel (minutes).
	$(QUICKLY) $(BIN)/python -m pytest $(BY_DAY)

# Tests that compute with networks, with the kernels of processors without AVX-512: sums in another
# order, so that no test may rest on the last digits of one machine.
test-avx2: $(VENV)/.installed-dev ## Run the tests that use networks with the kernels of older processors.
	$(QUICKLY) ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest $(BY_DAY) \
		$$(grep -lE 'torch|golden|TINY_|fw\.(run|evaluate)\(' $$(find tests -name 'test_*.py'))

# What `make test` leaves out since it takes an hour: the whole attack (docs/reliability.md), a study in
# every order, and the audit of what is installed, which asks PyPI; then examples that no day has tried,
# and tests of networks on other kernels.
nightly: $(VENV)/.installed-dev ## Run what `make test` leaves out, on new random examples (hours).
	$(QUICKLY) $(BIN)/python -m pytest --numprocesses=auto --timeout=3600 --hypothesis-profile=new_examples -m nightly
	$(QUICKLY) $(BIN)/python -m pytest --numprocesses=auto --hypothesis-profile=new_examples -m "hypothesis and not nightly"
	$(MAKE) test-avx2
	$(MAKE) dist

# What users install: the wheel and the sdist, and whether the README, the demo and the faster half of
# the tests work with the oldest and the newest versions that pyproject.toml allows, on each Python that
# is here. Each environment takes 6 GB with PyPI's torch. ON="3.13:newest" tries one of them.
DIST := build/dist-tools/bin
$(DIST)/twine:
	$(PYTHON) -m venv build/dist-tools
	$(DIST)/python -m pip install --quiet --disable-pip-version-check twine uv
dist: $(DIST)/twine ## Build the wheel, and try it as users do with old and new versions (hours).
	REFERENCES='$(REFERENCES)' $(DIST)/python .ci/dist.py $(ON)

lowest: ## Try the wheel with the oldest allowed versions.
	$(MAKE) dist ON=3.11:lowest

check: $(VENV)/.installed-dev ## Check format, style, types, security and the allowed imports.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	# Files are read and written in UTF-8 under every locale.
	$(BIN)/ruff check --preview --select PLW1514 .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml src
	$(BIN)/python -m pytest --quiet tests/test_architecture.py tests/test_words.py

# The site, from an empty folder so that nothing old remains; a warning is an error. It runs the notebooks.
docs: $(VENV)/.installed-docs ## Build the manual into build/docs; a warning is an error.
	rm -rf build/docs build/doctrees
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --quiet --fail-on-warning --nitpicky -c docs -b html -d build/doctrees . build/docs
	@echo 'open build/docs/index.html'

format: $(VENV)/.installed-dev ## Format the code, and correct what ruff can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Speed as ratios, on an otherwise idle machine: minutes. What is printed stands in benchmarks/notes.
bench: $(VENV)/.installed-dev ## Measure speed on an idle machine (minutes).
	$(BIN)/python benchmarks/speed.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bare_loops.py
	$(BIN)/python benchmarks/augmentation.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sharing.py
	$(BIN)/python benchmarks/corruptions.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/reporting.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/large.py

# How often the 95 % intervals contain the truth: about an hour. What is printed stands in benchmarks/notes.
coverage: $(VENV)/.installed-dev ## Measure how often the 95 % intervals hold the truth (an hour).
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/every_metric.py
	$(BIN)/python docs/site/coverage_chart.py
	$(BIN)/python benchmarks/good_models.py
	$(BIN)/python benchmarks/recipes.py
	$(BIN)/python benchmarks/groups.py
	$(BIN)/python benchmarks/guarantee.py
	$(BIN)/python benchmarks/class_limits.py
	$(BIN)/python benchmarks/thresholds.py
	$(BIN)/python benchmarks/conformal.py
	$(BIN)/python benchmarks/grades.py
	$(BIN)/python benchmarks/classes.py
	$(BIN)/python benchmarks/findings.py
	$(BIN)/python benchmarks/curves.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/costs.py
	$(BIN)/python benchmarks/patients.py
	$(BIN)/python benchmarks/areas.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/margins.py
	$(BIN)/python benchmarks/two_sample.py

clean: ## Remove the environment, build results and caches.
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
