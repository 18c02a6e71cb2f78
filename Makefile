# One virtual environment, filled step by step; a stamp file per extra makes the second run quick.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?= -n 2
VLLM_VENV ?= .venv-vllm

.DEFAULT_GOAL := help
.PHONY: help demo serve model web test test-vllm lint format docs clean

help: ## List these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(VENV)/.installed-core ## Make a synthetic scan, ask it 11 questions, compare with the truth (results in demo/)
	$(BIN)/slicesight demo --out demo

test: $(VENV)/.installed-test ## Run the unmarked tests; PYTEST_ARGS passes options on
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-vllm: $(VLLM_VENV)/.installed ## Answers of vLLM against the package's own, in an environment of its own (3.5 GB)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VLLM_VENV)/bin/python -m pytest -m vllm tests/plugins

serve: $(VENV)/.installed-serve ## Build the page if npm is here, then serve it with the small model (http://127.0.0.1:8000/)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory web; else echo "no npm: the API without its page"; fi
	$(BIN)/slicesight serve

model: $(VENV)/.installed-train ## Train the model that ships, from nothing, into runs/ (about an hour on two cores)
	$(BIN)/slicesight train recipes/phantom-tiny-stage0.yaml
	$(BIN)/slicesight train recipes/phantom-tiny.yaml

web: ## Build the web page into src/slicesight/serving/page (needs Node.js and npm)
	cd web && npm ci --no-audit --no-fund && npm run build
	@echo "built; slicesight serve shows it, and the next wheel carries it"

lint: $(VENV)/.installed-lint ## Check format, style, types and which room imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-lint ## Mend format and what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-docs ## Build the manual into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html
	@echo "open docs/_build/html/index.html"

clean: ## Remove the virtual environment and everything built
	rm -rf $(VENV) $(VLLM_VENV) demo docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), once; this takes some minutes"
	@$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what '$*' needs into $(VENV), once; this takes some minutes"
	@$(PIP) install -q -c constraints.txt -e ".[$*]"
	@touch $@

# vLLM pins its own torch and transformers. Three packages that come along do not load beside this torch, and are not missed.
$(VLLM_VENV)/.installed: plugins/vllm/pyproject.toml pyproject.toml
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing vLLM's CPU build into $(VLLM_VENV), once; 3.5 GB, this takes some minutes"
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install -q -e ".[serve]" -e "plugins/vllm[cpu]" pytest httpx
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall -q -y torchvision torchaudio torchcodec
	@touch $@
