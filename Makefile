# make demo   set up, then the main job on text found on this machine
# make quick  set up, then the tests that start neither Ray nor DeepSpeed and kill nothing
# make test   set up, then all tests
# make check  formatting, lint and types
# make docs   these pages as a site that needs no network, in build/docs
# make gpu    every GPU path of the trainer, 330 s at most; DRY=1 make gpu is tiny, on a CPU
# make peers  exports, read by the libraries that they are for, in an environment of their own
# make fuzz   hostile inputs for an hour; SECONDS=120 make fuzz is what CI runs
# make faults whole campaigns of kills, disconnected hosts and full disks (time: docs/lab.md)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Compiled modules are kept, whatever the environment says: without them each of several hundred
# processes that the tests start compiles 250 modules of Penstock again, 0.5 s of CPU time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo quick test faults fuzz peers check docs gpu bench clean

install: $(READY)

# PyTorch comes first and alone: what asks for "torch" later is content with the build that is
# there, where an unpinned request may bring gigabytes for GPUs. DeepSpeed compiles nothing.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: install
	$(BIN)/penstock demo

quick: install
	$(BIN)/python -m pytest -n 2 -m "not ray and not deepspeed and not faults and not slow"

test: install
	$(BIN)/python -m pytest -n 3

faults: install
	PENSTOCK_FAULTS=all $(BIN)/python -m pytest -m "faults or whole"

SECONDS ?= 3600
SEED ?= 1

fuzz: install
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

PEERS := .peers
PEERS_MDS := .peers-mds

# Versions are those that were tested; of constraints.txt only PyTorch's counts. It stays what it is
# while the rest is installed: torchvision, which mosaicml-streaming needs, else brings a newer one
# with gigabytes for GPUs. mosaicml-streaming has an environment of its own: it needs older versions
# of packages than datatrove and datasets do.
define PEER_ENVIRONMENT
$(PYTHON) -m venv $(1)
grep '^torch==' constraints.txt > $(1)/torch.txt
$(1)/bin/python -m pip install --quiet --constraint $(1)/torch.txt torch
$(1)/bin/python -m pip install --quiet --constraint $(1)/torch.txt $(2)
touch $(1)/.ready
endef

$(PEERS)/.ready:
	$(call PEER_ENVIRONMENT,$(PEERS),megatron-core==0.16.1 ai2-olmo-core==3.0.0 datatrove==0.10.1 \
	  datasets==5.2.0 zstandard==0.25.0)

$(PEERS_MDS)/.ready:
	$(call PEER_ENVIRONMENT,$(PEERS_MDS),mosaicml-streaming==0.13.0)

peers: install $(PEERS)/.ready $(PEERS_MDS)/.ready
	$(BIN)/python -m tests.peers --peer-python $(PEERS)/bin/python --mds-python $(PEERS_MDS)/bin/python

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The variable silences an advertisement. Anything else that MkDocs warns of is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo The site begins at build/docs/index.html

gpu: install
	$(BIN)/python benchmarks/gpu.py

bench: install
	$(BIN)/python benchmarks/scoring.py --json

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
