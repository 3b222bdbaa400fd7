# tuneserve: make train convert serve
#
# CONFIG chooses the recipe, RUN the run's name (default: the recipe's file name),
# ARGS passes anything else on, e.g. make train ARGS="--epochs 2"; it goes to every stage named,
# so name one. serve stays in the foreground: where several are named, it comes last.

CONFIG ?= examples/sentiment.toml
RUN ?= $(basename $(notdir $(CONFIG)))
ARGS ?=
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
LIGHT := $(VENV)/.ready-light
# What tests and checks need: the whole set-up, or the light one where that was chosen.
TOOLS := $(if $(wildcard $(LIGHT)),$(if $(wildcard $(STAMP)),$(STAMP),$(LIGHT)),$(STAMP))
COMMA := ,
TUNESERVE := $(BIN)/tuneserve
STAGE := --config $(CONFIG) --run $(RUN)

# llama.cpp is compiled while llama-cpp-python installs; for the GPU where there is an NVIDIA GPU
# and a CUDA compiler.
# AMX kernels of this release crash (ggml-org/llama.cpp issue 20824), so they stay out.
AMX := $(shell grep -qs amx_int8 /proc/cpuinfo && echo -mno-amx-int8)
CUDA := $(shell test -e /proc/driver/nvidia/version && command -v nvcc >/dev/null && echo -DGGML_CUDA=on)
export CMAKE_ARGS ?= $(strip $(CUDA) $(if $(AMX),-DCMAKE_C_FLAGS=$(AMX) -DCMAKE_CXX_FLAGS=$(AMX)))

.DEFAULT_GOAL := help
# The stages named on one command line follow one another, whatever -j says.
.NOTPARALLEL:
.PHONY: help setup setup-light data train convert serve chat bench doctor test test-fast lint format docs wheel sbom
.PHONY: fuzz clients site
.PHONY: clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Options: CONFIG=examples/x.toml RUN=name ARGS='…'   (now: CONFIG=$(CONFIG) RUN=$(RUN))"

setup: $(STAMP) ## Create .venv with everything in it

setup-light: $(LIGHT) ## Create .venv without torch: to serve, and to work on what trains nothing

$(STAMP): pyproject.toml Makefile finetune/runtime/unsloth.txt
	@echo "setting up $(VENV): some minutes, about 7 GB; llama.cpp is compiled once"
	$(call install,.[all$(COMMA)dev])
	$(BIN)/python -m pip install --quiet --no-deps --requirement finetune/runtime/unsloth.txt
	@touch $(STAMP) $(LIGHT)

$(LIGHT): pyproject.toml Makefile
	@echo "setting up $(VENV) without torch, about 650 MB; llama.cpp is compiled once"
	$(call install,.[demo$(COMMA)dev])
	@touch $(LIGHT)

# $(1): what to install.
define install
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and f"tuneserve needs Python 3.11 or 3.12, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11")'
	@for tool in cmake c++; do command -v $$tool >/dev/null || { echo "missing: $$tool (Debian: apt-get install cmake g++)"; exit 1; }; done
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '$(1)'
endef

data: $(STAMP) ## Build data/sentiment.jsonl, the demo examples
	$(TUNESERVE) data sentiment --skip-done

# Only the demo recipes need the demo data; other recipes name files of their own.
NEEDED_DATA := $(if $(filter examples/sentiment%.toml,$(CONFIG)),data)

train: $(STAMP) $(NEEDED_DATA) ## Fine-tune: examples to LoRA adapter
	$(TUNESERVE) train $(STAGE) --skip-done $(ARGS)

convert: $(STAMP) ## Merge, quantize, verify: adapter to GGUF
	$(TUNESERVE) convert $(STAGE) --skip-done $(ARGS)

serve: $(STAMP) ## Serve the tuned model (OpenAI-compatible)
	$(TUNESERVE) serve $(STAGE) $(ARGS)

chat: $(STAMP) ## Talk to the served model
	$(TUNESERVE) chat $(ARGS)

bench: $(STAMP) ## Tuned against base on held-out prompts, with error bars
	$(TUNESERVE) bench $(STAGE) --skip-done --rescore $(ARGS)

doctor: $(STAMP) ## What was found, what is missing, what to do
	$(TUNESERVE) doctor

test: $(TOOLS) ## Run all tests, in two processes
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-fast: $(TOOLS) ## Run the tests that train, convert and serve nothing
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

lint: $(TOOLS) ## ruff, import-linter and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(TOOLS) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SECONDS ?= 60
fuzz: $(TOOLS) ## Run every fuzz target for SECONDS=60; with atheris where it is: pip install '.[fuzz]'
	$(BIN)/python -m fuzz --seconds $(SECONDS) $(ARGS)

docs: $(TOOLS) ## Regenerate docs/settings.md and docs/commands.md from the code
	$(BIN)/python -m tuneserve.cli.reference docs

site: $(TOOLS) ## Build the pages as a site: build/site/index.html
	$(BIN)/python -m pip install --quiet 'mkdocs-material>=9.6,<10'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clients: $(TOOLS) ## Try real clients on the demo model, MODEL=model.gguf or a server's URL=http://…
	$(BIN)/python benchmarks/serve_clients.py $(if $(MODEL),--model $(MODEL)) $(if $(URL),--url $(URL)) $(ARGS)

wheel: $(TOOLS) ## Build dist/tuneserve-*.whl
	rm -rf build  # what an earlier build left there would go into the wheel
	$(BIN)/python -m build --wheel --quiet

sbom: $(TOOLS) ## Write dist/tuneserve-sbom.cdx.json: what .venv has, in CycloneDX
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file dist/tuneserve-sbom.cdx.json $(BIN)/python

clean: ## Remove caches and build products; runs/, data/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis unsloth_compiled_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Also remove .venv
	rm -rf $(VENV)
