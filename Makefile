# make demo   installs the program and runs self-training on the digits (runs/digits)
# make fashion  ... on Fashion-MNIST, of which 20 images a class keep their label (runs/fashion)
# make quick  installs, lints and runs the tests of a minute and a half
# make test   ... all tests but those that `make chaos`, `make pod`, `make slurm`, `make browser`,
#             `make buckets`, `make versions` and `make parity` name
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Huge pages for large blocks: a training step of the demo is 1.3 to 1.7 times faster on CPU.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Modules are compiled when they are first imported, below: that must be kept, or every start of a
# program compiles JAX again, 4 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install dev demo fashion quick smoke test lint oldest newest versions chaos pod slurm browser buckets parity docs \
	bench bench-cpu bench-onnx bench-input \
	bench-labelling bench-bucket bench-selection bench-corruptions bench-corrections ladder ablations

# Wheels alone: nothing is compiled here. (promise, which TensorFlow Datasets ask for, is Python and has
# none.) uv, where there is one, fetches them side by side. What is imported is compiled when it is.
# CONSTRAINTS=constraints.txt takes the exact versions that the golden numbers were made with, LOWEST=1
# the lowest that requirements.txt and pyproject.toml allow, which uv alone can find. VENV=DIRECTORY
# names another environment than .venv.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
ifneq ($(LOWEST),)
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --resolution lowest-direct
else ifneq ($(shell command -v uv),)
INSTALL := uv pip install --quiet --python $(BIN)/python
else
INSTALL := $(PIP)
endif
# ns_jax itself is no wheel yet: uv says no to it, too, unless it is named.
INSTALL += --only-binary :all: --no-binary promise --no-binary ns-jax $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ns_jax needs Python 3.11 or newer; PYTHON=python3.12 make ... chooses one")'
	$(PYTHON) -m venv $(VENV)
	$(if $(LOWEST),$(PIP) uv)
	$(INSTALL) --editable .
	touch $@

# What tests and benchmarks need beside it: half as much again, most of it the TPU compiler.
dev: $(VENV)/.dev

$(VENV)/.dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m ns_jax selftrain --config=configs/digits.py --workdir=runs/digits

# Fashion-MNIST, 20 labels a class. Root has Debian's package installed; others are told its name.
fashion: install
	if [ ! -e /usr/share/datasets/fashion-mnist ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get install --yes --no-install-recommends dataset-fashion-mnist || \
	    { apt-get update && apt-get install --yes --no-install-recommends dataset-fashion-mnist; }; fi
	$(BIN)/python -m ns_jax selftrain --config=configs/fashion.py --workdir=runs/fashion

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck launch/*.sh

# No other process and no whole network to compile.
QUICK := $(BIN)/python -m pytest -n 2 --dist loadfile \
	-m 'not large and not parity and not chaos and not pod and not slurm and not browser and not versions and not bucket'
quick: lint
	$(QUICK)

# The tests of `make quick` and the demo with a tenth of its steps and one student: whether a Python and the
# versions that it brings work. No lint, for which they do not matter.
smoke: dev
	$(QUICK)
	rm -rf $(VENV)/demo
	$(BIN)/python -m ns_jax selftrain --config=configs/digits.py --workdir=$(VENV)/demo --config.train.epochs=20 \
		--config.optim.warmup_epochs=2 --config.selftrain.iterations=1

# With exactly the lowest versions of requirements.txt and pyproject.toml, on the oldest Python: 3.11.
oldest:
	$(MAKE) smoke VENV=.venv-oldest LOWEST=1

# The whole suite with the newest versions that there are, in an environment made anew: for those who maintain
# ns_jax, every week or so. PYTHON names the newest Python.
newest:
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest

# What the oldest versions wrote is read by the newest ones, and the other way round. PYTHON makes the environment
# of the newest versions, OLDEST_PYTHON that of the oldest.
OLDEST_PYTHON ?= $(PYTHON)
versions:
	$(MAKE) install VENV=.venv-oldest LOWEST=1 PYTHON=$(OLDEST_PYTHON)
	$(MAKE) dev VENV=.venv-newest
	NS_JAX_OLDEST_PYTHON=.venv-oldest/bin/python .venv-newest/bin/python -m pytest -m versions

# Two at a time, which is 1.6 times as fast on 2 cores. A file's tests share what they compiled.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Runs that are killed in every stage and must end in the same bits.
chaos: dev
	$(BIN)/python -m pytest -m chaos

# Meshes against one device, and the compiled text of steps for slices of many cores.
pod: dev
	$(BIN)/python -m pytest -m pod

# Jobs of a Slurm of two nodes, which starts for them and ends with them, and of Open MPI. Needs root and
# slurm-wlm, munge and openmpi-bin of the system; without, the tests are skipped and say so.
slurm: dev
	$(BIN)/python -m pytest -m slurm -rs

# Reports in headless Chromium. Needs chromium and chromium-driver of the system; without, the tests are
# skipped and say so.
browser: dev
	$(BIN)/python -m pytest -m browser -rs

# Workdirs and sources in buckets of real storage servers on loopback, which pip installs.
buckets: $(VENV)/.buckets
	$(BIN)/python -m pytest -m bucket -rs

$(VENV)/.buckets: $(VENV)/.dev
	$(INSTALL) --editable '.[dev,buckets]'
	touch $@

# PyTorch and timm, to compare with: an environment of their own. timm needs torchvision's Python
# half alone, so its dependencies are not asked for.
.venv-timm/.installed:
	$(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install --quiet torch==2.13.0 numpy safetensors pyyaml huggingface_hub pillow onnx onnxscript onnxruntime openvino
	.venv-timm/bin/python -m pip install --quiet --no-deps torchvision==0.28.0 timm==1.0.31
	touch $@

# The pages of docs/ as a site, in site/. A link that leads nowhere is an error.
docs: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Against timm, TensorFlow and foolbox themselves.
parity: dev .venv-timm/.installed
	$(INSTALL) --editable '.[dev,tf,parity]'
	NS_JAX_TIMM_PYTHON=.venv-timm/bin/python $(BIN)/python -m pytest -m parity

bench-cpu: dev .venv-timm/.installed
	$(BIN)/python -m benchmarks.cpu_speed

# Our ONNX files against our own inference and timm's torch.onnx export.
bench-onnx: dev .venv-timm/.installed
	$(BIN)/python -m benchmarks.onnx_speed --quantise
	$(BIN)/python -m benchmarks.onnx_equal

# Images/s into training and evaluation against timm's loader; memory, tar shards, folders.
bench-input: dev .venv-timm/.installed
	$(BIN)/python -m benchmarks.input_speed
	$(BIN)/python -m benchmarks.input_sources

# The authors of ImageNet-C's own code, with libraries of its time. ImageMagick's library is not
# Python's: apt-get install libmagickwand-6.q16-6
PYTHON37 ?= python3.7
.venv-imagenet-c/.installed:
	$(PYTHON37) -m venv .venv-imagenet-c
	.venv-imagenet-c/bin/python -m pip install --quiet numpy==1.16.6 scipy==1.2.3 scikit-image==0.14.5 \
		opencv-python-headless==3.4.8.29 Pillow==9.5.0 Wand==0.4.5
	.venv-imagenet-c/bin/python -m pip install --quiet --no-deps imagenet-c==0.0.3 torchvision==0.2.1
	touch $@

# FROST=DIRECTORY has the authors' photographs; without it frost is left out.
bench-corruptions: dev .venv-imagenet-c/.installed
	$(BIN)/python -m benchmarks.corruptions --frost=$(FROST)

# Labelling against its two halves, what a stored label costs and loses, the guard against leaks.
bench-labelling: dev
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.labelling
	$(BIN)/python -m benchmarks.label_store
	$(BIN)/python -m benchmarks.leaks

# Training and labelling from a bucket (a real server on loopback, 30 ms an answer) against a disk.
bench-bucket: $(VENV)/.buckets
	$(BIN)/python -m benchmarks.bucket_reading $(ARGS)

# Selecting from up to 300 million labels, against one DuckDB query.
bench-selection: dev
	$(BIN)/python -m benchmarks.selection

# 50 clicks on a report's tiles as they are offered against 50 labels of random images. Resumes.
bench-corrections: dev
	$(BIN)/python -m benchmarks.corrections

# All seeds with the baseline: 10 minutes on 2 cores.
bench: dev
	$(BIN)/python -m benchmarks.digits

# Self-training against what people would use instead, on the digits and on Fashion-MNIST (make
# fashion installs it). Interrupted, the same command goes on. ARGS=--short: the digits, one seed.
ladder: dev
	$(BIN)/python -m benchmarks.ladder $(ARGS)

# The paper's findings: one deviation at a time from the digits' and Fashion-MNIST's self-training.
ablations: dev
	$(BIN)/python -m benchmarks.ablations --set digits
	$(BIN)/python -m benchmarks.ablations --set fashion
