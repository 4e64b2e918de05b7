# One virtual environment, .venv, holds everything; nothing is installed outside it.
PYTHON ?= python3
BIN := .venv/bin
MADE := .venv/.made
MADE_BOT := .venv/.made-bot
MADE_BROWSER := .venv/.made-browser
MADE_DIST := .venv/.made-dist
# A variable, as its commas would end an argument of $(call).
SIDECAR := './sidecar[codecs,otel]'
NEURAL := -e './sidecar[simulator-neural]'
FALLBACKS := '-e./sidecar[simulator]' pocketsphinx
# Two workers for each processor, as tests often wait; each takes tests from the others when its own are done.
PARALLEL := -n auto --dist worksteal
# The same commit always runs the same sample of the matrix, and the next commit runs another one.
MATRIX_SEED ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo 0)
SUITES := check slow debug fuzz matrix soak interop browser containers dist
INTEROP := $(patsubst tests/interop/envs/%.txt,.interop/%/.made,$(wildcard tests/interop/envs/*.txt))

# Without compiled files, each worker and each process under test would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

# $(call pip,python,arguments): install packages, and show what pip says only if it fails.
pip = $(1) -m pip install --disable-pip-version-check $(2) >$@.log 2>&1 || { cat $@.log; exit 1; }

# Some machines have no packages of the best engines, and some none of eSpeak NG.
define speech
echo "Installing the simulator's voice and recognizer"
$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --only-binary :all: $(NEURAL) >$(MADE)-speech.log 2>&1 || { \
echo "The best ones could not be installed, so the simulator uses flite or eSpeak NG, and PocketSphinx. Packages exist for Linux with glibc 2.34, macOS 15 on Apple silicon and Windows; pip's messages are in $(MADE)-speech.log."; \
for packages in $(FALLBACKS); do $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $$packages >>$(MADE)-speech.log 2>&1 && break; done; true; }
endef

.PHONY: help install speech run bot test coverage bench docs check check-all slow debug interop interop-envs browser containers dist matrix matrix-all matrix-docs soak fuzz format constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

install: $(MADE) ## create .venv with both packages and the tools

$(MADE): pyproject.toml sidecar/pyproject.toml plugin/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating a virtual environment in .venv"
	@$(PYTHON) -m venv .venv
	@echo "Installing pip"
	@$(call pip,$(BIN)/python,-c constraints.txt 'pip>=25.1')
	@echo "Installing both packages, their dependencies and the development tools"
	@$(call pip,$(BIN)/python,-c constraints.txt --group dev -e $(SIDECAR) -e ./plugin)
	@$(speech)
	@touch $(MADE)

speech: $(MADE) ## install the simulator's voice and recognizer, the best for which there are packages here
	@$(speech)

run: $(MADE) ## start the gateway; with the simulator if there is no SLNG key
	@echo "Starting the gateway; Ctrl-C stops it"
	@exec $(BIN)/slng-sidecar serve --env-file .env --simulate-without-key

bot: $(MADE_BOT) ## start the example bot, to talk to in the browser; BOT="-t daily" for Daily
	@$(BIN)/python plugin/examples/bot.py $(BOT)

$(MADE_BOT): $(MADE)
	@echo "Installing the dependencies of the examples"
	@$(call pip,$(BIN)/python,-c constraints.txt -e './plugin[examples]')
	@touch $@

test: $(MADE) ## run the tests that need nothing but Python
	$(BIN)/python -m pytest $(PARALLEL)

coverage: $(MADE) ## run the same tests with branch coverage, fail below the floor, and list the files below it
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report= --cov-fail-under=0
	$(BIN)/python .ci/coverage_floor.py

bench: $(MADE) ## measure the sidecar beside the official plugin, on the simulator; BENCH="--quick" for less
	@$(BIN)/python -m bench $(BENCH)

docs: $(MADE) ## write the reference pages that come from the code
	@$(BIN)/python docs/generate.py

check: $(MADE) ## check format, style, spelling, types, layers and branch coverage by the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy sidecar plugin tests bench
	$(BIN)/lint-imports --no-cache --no-logo
	$(MAKE) coverage

check-all: ## run check, then every suite below except matrix-all, and say how long each took
	@MAKE="$(MAKE)" .ci/timed $(SUITES)

slow: $(MADE) ## run the tests that take long: speech in real time, long files, the benchmark's comparison
	$(BIN)/python -m pytest -m slow

debug: $(MADE) ## run the gateway's tests in asyncio's debug mode
	# But for those in which time runs faster than it may be looked at.
	$(BIN)/python -m pytest -n logical --dist worksteal -o asyncio_debug=true --ignore-glob='*_losses.py' tests/server tests/upstream

interop: $(MADE) interop-envs ## test the clients that need environments of their own, and the plugin on the oldest supported Pipecat
	$(BIN)/python -m pytest -m interop tests/interop
	SLNG_SIDECAR_COMMAND=$(CURDIR)/$(BIN)/slng-sidecar .interop/pipecat-floor/bin/python -m pytest -m "" tests/plugin

interop-envs: $(INTEROP) ## create the environments of interop, in .interop

.interop/%/.made: tests/interop/envs/%.txt
	@rm -rf .interop/$*
	@$(PYTHON) -m venv .interop/$*
	@echo "Installing the packages of .interop/$*"
	@$(call pip,.interop/$*/bin/python,-r $<)
	@touch $@

.interop/pipecat-floor/.made: sidecar/pyproject.toml plugin/pyproject.toml

containers: $(MADE) $(MADE_BROWSER) ## build the images and test them; needs a Docker engine
	$(BIN)/python -m pytest -m containers tests/containers

browser: $(MADE_BROWSER) ## talk to the example bot in a real browser; needs chromium
	$(BIN)/python -m pytest -m browser tests/browser

$(MADE_BROWSER): $(MADE_BOT)
	@echo "Installing what drives a browser"
	@$(call pip,$(BIN)/python,-c constraints.txt --group browser)
	@touch $@

dist: $(MADE_DIST) ## build both packages into dist/, and test them in environments of their own
	rm -rf dist
	for package in sidecar plugin; do $(BIN)/python -m build --dependency-constraints-txt constraints.txt --outdir dist $$package || exit; done
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m pytest -m dist tests/packaging

$(MADE_DIST): $(MADE)
	@echo "Installing what builds packages"
	@$(call pip,$(BIN)/python,-c constraints.txt --group dist)
	@touch $@

matrix: $(MADE) ## run a sample of matrix-all, chosen by MATRIX_SEED, with every fault, moment and implementation in it
	MATRIX_SEED=$(MATRIX_SEED) $(BIN)/python -m pytest -m matrix -rP tests/faults tests/e2e

matrix-all: $(MADE) ## run every fault at every moment, and show the results in a table
	$(BIN)/python -m pytest -m matrix tests/faults tests/e2e

matrix-docs: $(MADE) ## run matrix-all, and write the results to docs/evidence/fault-matrix.md
	MATRIX_DOCS=docs/evidence/fault-matrix.md $(BIN)/python -m pytest -m matrix tests/faults

soak: $(MADE) ## run sessions under random faults for MINUTES (default 2)
	SOAK_MINUTES=$(or $(MINUTES),2) $(BIN)/python -m pytest -m soak -rP tests/soak

fuzz: $(MADE) ## test with fresh random input for MINUTES (default 1)
	FUZZ_MINUTES=$(or $(MINUTES),1) $(BIN)/python -m pytest -m fuzz tests/fuzz

format: $(MADE) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: ## pin the versions that a fresh installation takes today
	rm -rf .venv && : > constraints.txt && $(MAKE) install $(MADE_BROWSER) $(MADE_DIST)
	{ echo "# Versions that the tests ran with; made by 'make constraints'."; $(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^setuptools=='; } > constraints.tmp && mv constraints.tmp constraints.txt && touch $(MADE) $(MADE_BOT) $(MADE_BROWSER) $(MADE_DIST)

clean: ## remove what the other targets have made
	rm -rf .venv .interop dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
