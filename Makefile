# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help install demo test test-slow test-browser test-faults check format lock docs clean

help:
	@echo "make demo         books -> tokens -> training -> artifact -> service -> prose; Ctrl-C ends it"
	@echo "make test         the test suite (under 10 minutes on 2 cores)"
	@echo "make test-slow    what takes more than ten seconds each: deployments, documents (eight minutes)"
	@echo "make test-browser the pages in a real browser (some minutes; wants chromium)"
	@echo "make test-faults  kill matrices, too long for every day"
	@echo "make check        format, lint, types, import contracts"
	@echo "make format       rewrite the sources in the house format"
	@echo "make lock         resolve requirements.lock again from pyproject.toml"
	@echo "make docs         the documentation as a site, in site/"
	@echo "make clean        remove what demo and test runs wrote (data/, runs/), and site/"

install: $(INSTALLED)

# torch has no hash in the lock: its CPU and CUDA builds share one version, and pip takes the right one.
$(INSTALLED): requirements.lock pyproject.toml
	@echo "installing into .venv (a few minutes the first time)"
	@test -n "$(PYTHON)" || { echo "no Python found: install Python 3.11, or give PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "$(PYTHON) is not Python 3.11 or 3.12: install one, or give PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	@$(BIN)/victorian demo

# Two processes, since tests of clusters wait a lot. Threads that spin while they wait would take each other's cores.
test: install
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m "not slow and not faults and not browser"

test-slow: install
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m "slow and not faults and not browser"

# SCREENSHOTS=folder keeps what the pages look like.
test-browser: install
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		{ echo "no Chromium found: apt-get install --no-install-recommends chromium, or Google Chrome"; exit 1; }
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m browser tests/browser $(if $(SCREENSHOTS),--screenshots $(SCREENSHOTS))

test-faults: install
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m faults

check: install
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The CUDA libraries belong to torch's CUDA build and come with it.
lock: install
	@$(BIN)/pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-header --no-annotate --quiet \
		--no-emit-package torch --output-file requirements.lock.new
	@$(BIN)/python -c "import re, pathlib; p = pathlib.Path('requirements.lock.new'); \
		blocks = re.split(r'(?m)^(?=\S)', p.read_text()); \
		p.write_text(''.join(b for b in blocks if not re.match(r'(nvidia|cuda|triton)', b)))"
	@mv requirements.lock.new requirements.lock

docs: install
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs site
	@echo "site/index.html is ready"

clean:
	@rm -rf data runs site
