# One virtual environment, filled step by step; a stamp file per extra makes the second run quick.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?= -n 2 --dist worksteal
VLLM_VENV ?= .venv-vllm

.DEFAULT_GOAL := help
.PHONY: help demo serve model web test test-napari test-slicer test-vllm lint format docs links man notebooks release clean

help: ## List these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(VENV)/.installed-core ## Make a synthetic scan, ask it 11 questions, compare with the truth (results in demo/)
	$(BIN)/slicesight demo --out demo

# Neighbours share fixtures, so each worker takes a run of tests and steals at the end. Bytecode is kept, or each process
# that a test starts would compile the package again (images for containers often switch it off).
test: $(VENV)/.installed-test ## Run the unmarked tests; PYTEST_ARGS passes options on
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-napari: $(VENV)/.installed-napari ## Test the napari plug-in in a napari without a screen
	QT_QPA_PLATFORM=offscreen OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/plugins/test_napari_plugin.py

test-slicer: $(VENV)/.installed-slicer ## Test the 3D Slicer module's scene calls in Slicer's own libraries
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/plugins/test_slicer_module.py

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
	MYPYPATH=src:plugins/slicer/Slicesight:plugins/napari/src $(BIN)/mypy -p SlicesightLib -p napari_slicesight
	$(BIN)/lint-imports

format: $(VENV)/.installed-lint ## Mend format and what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-docs ## Build the manual into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html
	@echo "open docs/_build/html/index.html"

links: $(VENV)/.installed-docs ## Ask every other site that the manual links to whether the page is still there (needs a connection)
	$(BIN)/sphinx-build -q -b linkcheck docs docs/_build/links

man: $(VENV)/.installed-docs ## Write the pages for man into docs/_build/man
	$(BIN)/python docs/make_man.py docs/_build/man >/dev/null
	@echo "read one: man -l docs/_build/man/slicesight-ask.1"

notebooks: $(VENV)/.installed-test ## Run the manual's notebooks and store what they show (some minutes)
	OMP_NUM_THREADS=1 $(BIN)/python docs/notebooks/run.py

release: $(VENV)/.installed-release ## Build what would be published, twice, and check it (dist/); nothing is sent
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory web; else echo "no npm: no page in it"; fi
	PYTHON=$(BIN)/python .ci/release

clean: ## Remove the virtual environment and everything built
	rm -rf $(VENV) $(VLLM_VENV) demo docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), once; this takes some minutes"
	@$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-napari: plugins/napari/pyproject.toml constraints.txt | $(VENV)/.installed-test
	@$(PIP) install -q -c constraints.txt -e "plugins/napari[test]"
	@touch $@

$(VENV)/.installed-slicer: constraints.txt | $(VENV)/.installed-test
	@$(PIP) install -q -c constraints.txt slicer-core
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what '$*' needs into $(VENV), once; this takes some minutes"
	@$(PIP) install -q -c constraints.txt -e ".[$*]"
	@touch $@

# vLLM pins its own torch and transformers. Three packages that come along do not load beside this torch, and are not missed.
$(VLLM_VENV)/.installed: plugins/vllm/pyproject.toml pyproject.toml
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing vLLM's CPU build into $(VLLM_VENV), once; 3.5 GB, this takes some minutes"
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install -q -e ".[serve]" -e "plugins/vllm[cpu]" pytest httpx peft
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall -q -y torchvision torchaudio torchcodec
	@touch $@
