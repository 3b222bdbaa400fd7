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
.PHONY: help setup data train convert serve chat bench doctor test lint format docs wheel clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Options: CONFIG=examples/x.toml RUN=name ARGS='…'   (now: CONFIG=$(CONFIG) RUN=$(RUN))"

setup: $(STAMP) ## Create .venv with everything in it

$(STAMP): pyproject.toml Makefile finetune/runtime/unsloth.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and f"tuneserve needs Python 3.11 or 3.12, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11")'
	@for tool in cmake c++; do command -v $$tool >/dev/null || { echo "missing: $$tool (Debian: apt-get install cmake g++)"; exit 1; }; done
	@echo "setting up $(VENV): some minutes, about 7 GB; llama.cpp is compiled once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement finetune/runtime/unsloth.txt
	@touch $(STAMP)

data: $(STAMP) ## Build data/sentiment.jsonl, the demo examples
	$(TUNESERVE) data sentiment --skip-done

# Only the demo recipe needs the demo data; other recipes name files of their own.
NEEDED_DATA := $(if $(filter examples/sentiment.toml,$(CONFIG)),data)

train: $(STAMP) $(NEEDED_DATA) ## Fine-tune: examples to LoRA adapter
	$(TUNESERVE) train $(STAGE) --skip-done $(ARGS)

convert: $(STAMP) ## Merge, quantize, verify: adapter to GGUF
	$(TUNESERVE) convert $(STAGE) --skip-done $(ARGS)

serve: $(STAMP) ## Serve the tuned model (OpenAI-compatible)
	$(TUNESERVE) serve $(STAGE) $(ARGS)

chat: $(STAMP) ## Talk to the served model
	$(TUNESERVE) chat $(ARGS)

bench: $(STAMP) ## Tuned against base on held-out prompts, with error bars
	$(TUNESERVE) bench $(STAGE) --skip-done $(ARGS)

doctor: $(STAMP) ## What was found, what is missing, what to do
	$(TUNESERVE) doctor

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Regenerate docs/settings.md and docs/commands.md from the code
	$(BIN)/python -m tuneserve.cli.reference docs

wheel: $(STAMP) ## Build dist/tuneserve-*.whl
	$(BIN)/python -m build --wheel --quiet

clean: ## Remove caches and build products; runs/, data/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis unsloth_compiled_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Also remove .venv
	rm -rf $(VENV)
