# The front door. What it calls: apt, cmake, ctest (through tests/run.sh), and the scripts in demo/ and tests/.
BUILD ?= build
VENV ?= .venv
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=
PACKAGES = cmake g++ gcc libbenchmark-dev libhwloc-dev libjansson-dev libpcre2-dev libsentencepiece-dev libsleef-dev \
           make ninja-build pkg-config python3 wordnet-base
INSTALL = apt-get install -y --no-install-recommends

.PHONY: help deps build demo study test interop bench mca compare clean

help:
	@echo "make deps     install the Debian packages that are missing (as root; otherwise print the command)"
	@echo "make build    build the library and its programs in $(BUILD)/"
	@echo "make test     run all tests; the last line sums them up"
	@echo "make demo     fine-tune a small language model with LoRA and dropout, five seeds each"
	@echo "make study    ask of ranks, rates, places and parts of dropout on the demo's task; half an hour, goes on after Ctrl-C"
	@echo "make interop  compare with PyTorch, PEFT and tokenizers, in a Python environment of its own ($(VENV)/)"
	@echo "make bench    measure all operations, write $(BUILD)/bench/; BENCH_FLAGS are Google Benchmark's"
	@echo "make mca      estimate the inner loops on CPUs that are not at hand, with llvm-mca"
	@echo "make compare  measure beside PyTorch, PEFT and transformers; COMPARE_FLAGS, e.g. --only lora (--help lists them)"
	@echo "make clean    remove $(BUILD)/"

# What is there counts if it is for this machine's architecture; where there is no dpkg nothing is looked for.
deps:
	@command -v dpkg-query >/dev/null || exit 0; \
	native=$$(dpkg --print-architecture); \
	there=$$(dpkg-query -W -f '$${db:Status-Status} $${Architecture} $${Package}\n' | \
	         sed -nE "s/^installed ($$native|all) //p"); \
	missing=$$(printf '%s\n' $(PACKAGES) | grep -vxF "$$there" | tr '\n' ' '); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then apt-get update && DEBIAN_FRONTEND=noninteractive $(INSTALL) $$missing; \
	else echo "packages are missing; install them with"; echo "    sudo $(INSTALL) $$missing"; exit 1; fi

build: deps
	@cmake -S . -B $(BUILD) -G Ninja $(CMAKE_FLAGS)
	@cmake --build $(BUILD) -j $(JOBS)

test: build
	@tests/run.sh $(BUILD)

demo: build
	@demo/run.sh $(BUILD)

study: build
	@study/run.sh $(BUILD) $(STUDY_FLAGS)

$(VENV)/ready: tests/interop/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r tests/interop/requirements.txt
	touch $@

interop compare: PACKAGES += python3-venv
interop: build $(VENV)/ready
	@$(VENV)/bin/python tests/interop/run.py --build $(BUILD)

bench: build
	@mkdir -p $(BUILD)/bench
	@$(BUILD)/lodrop-bench --benchmark_out=$(BUILD)/bench/bench.json $(BENCH_FLAGS)
	@bench/report.py $(BUILD)/bench/bench.json $(BUILD)/bench

mca: PACKAGES += g++-aarch64-linux-gnu llvm-19
mca: build
	@mkdir -p $(BUILD)/bench
	@bench/mca.py $(BUILD) >$(BUILD)/bench/mca.md
	@cat $(BUILD)/bench/mca.md

compare: build $(VENV)/ready
	@$(VENV)/bin/python bench/compare/run.py --build $(BUILD) $(COMPARE_FLAGS)

clean:
	rm -rf $(BUILD)
