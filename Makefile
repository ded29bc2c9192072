# make study, make test, make docs: each works from a fresh clone; everything is installed into .venv on first use.
# A Python 3.11 or newer is looked for; name another one with PYTHON=..., options of the study with ARGS="...".

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
TL4 := .venv-tl4
CONSTRAINTS := constraints.txt
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip
# pep517: the pip of Debian 12 would run the setup.py of packages that have no wheel here and not in a build environment
INSTALL = $(PIP) install --use-pep517 --disable-pip-version-check -c $(CONSTRAINTS)
# test-tl4 and what it installs do the same in an environment of their own
test-tl4 $(TL4)/.test: VENV := $(TL4)
test-tl4 $(TL4)/.test: CONSTRAINTS := $(TL4)/constraints.txt
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# pyright would ask the network whether there is a newer pyright
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help study test test-tl4 docs bench analyses pin clean

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST)

study: $(VENV)/.study ## run the main job; options: make study ARGS="out=runs/first seed=1"
	$(BIN)/mechsteer study $(ARGS)

test: $(VENV)/.test ## lint, format, types and tests; stops at the first that fails
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-tl4: $(TL4)/.test ## the tests with TransformerLens 4; what needs HookedTransformer or sae-lens skips
	$(BIN)/python -m pytest -n 2 $(ARGS)

docs: $(VENV)/.docs ## build the documentation: site/index.html, which opens from the disk
	rm -rf site
	$(BIN)/zensical build --clean --strict

bench: $(VENV)/.test ## time what must be fast
	$(BIN)/python scripts/bench.py $(ARGS)

analyses: $(VENV)/.study ## settle published claims on the bundled model (analyses/README.md); ARGS="seeds=5 model=..."
	$(BIN)/python analyses/all.py $(ARGS)

pin: $(VENV)/.test ## write the versions now installed in .venv to constraints.txt
	@# torch's local tag (+cpu, +cu130) belongs to a machine; torch itself pins its CUDA packages
	{ sed '/^#/!d' constraints.txt; \
	  $(PIP) freeze --all --exclude-editable | sed -e '/^pip==/d' -e 's/+[a-z0-9.]*$$//' -e '/^nvidia-/d' -e '/^triton==/d'; \
	} > constraints.txt.part
	mv constraints.txt.part constraints.txt
	touch $(VENV)/.study $(VENV)/.test $(VENV)/.docs

clean: ## remove the installation, caches and build leftovers; runs/ is kept
	rm -rf $(VENV) $(TL4) build dist site .cache *.egg-info .ruff_cache .pytest_cache constraints.txt.part
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: an installation happens once, and again when these two files change.
$(VENV)/.study: pyproject.toml constraints.txt
	$(venv)
	$(INSTALL) -e '.[sae]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(venv)
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.study $(VENV)/.docs

$(VENV)/.docs: pyproject.toml constraints.txt
	$(venv)
	$(INSTALL) -e '.[docs]'
	@touch $@

# The same versions, but for TransformerLens, which sae-lens does not work with.
$(TL4)/.test: pyproject.toml constraints.txt Makefile
	$(venv)
	sed -e '/^sae-lens==/d' -e 's/^transformer-lens==.*/transformer-lens==4.3.0/' constraints.txt > $(CONSTRAINTS)
	$(INSTALL) -e '.[test]'
	@touch $@

# A virtual environment with a working pip: the one that is there, or a new one. Debian keeps ensurepip, without
# which there is none, in a package of its own.
define venv
@if $(PIP) --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null 2>&1; then exit 0; fi; \
if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
  echo "Python 3.11 or newer is needed (found '$(PYTHON)'); name one: make $(MAKECMDGOALS) PYTHON=<path>" >&2; exit 1; \
fi; \
if ! "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then \
  package=$$("$(PYTHON)" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    apt-get update && apt-get install -y "$$package"; \
  else \
    echo "Python lacks ensurepip. Install it and try again: sudo apt-get install $$package" >&2; exit 1; \
  fi; \
fi; \
echo "installing into $(VENV): some minutes, once"; \
"$(PYTHON)" -m venv --clear $(VENV)
endef
