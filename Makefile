# vecpipe. `make help` lists the targets.
BUILD    ?= build
PREFIX   ?= /usr/local
DESTDIR  ?=
CC       ?= cc
SANITIZE ?=
WARN      = -Wall -Wextra -Wshadow -Wconversion -Werror
CFLAGS   ?= -O2 -g
BASE      = -std=c17 -D_GNU_SOURCE -I. -MMD -MP -ffp-contract=off -fno-math-errno -fvisibility=hidden -pthread
SAN       = $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all)
LIBS      = -ldl -lmsgpackc -lzstd -lxxhash -ldnnl -lsqlite3 -lpcre2-8 -lutf8proc -ljansson -lm
# a plain `make test` or `make demo` uses all cores
PARALLEL  = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
COMPILE   = $(CC) $(BASE) $(WARN) $(CFLAGS) $(SAN)
LINK      = $(CC) $(SAN) -pthread -fopenmp -o $@ $^ $(LIBS)

PROGRAMS := vp $(shell sed -n 's/^X[^"]*"\([a-z-]*\)".*/\1/p' tools/programs.def)
LIB_SRC   = $(wildcard lib/*/*.c)
CPU_SRC   = $(filter-out kernels/cpu/simd_%,$(wildcard kernels/*.c kernels/cpu/*.c kernels/plan/*.c))
# kernels/cpu/simd_*.c are compiled once an instruction set
SIMD_SRC  = $(wildcard kernels/cpu/simd_*.c)
ISA_avx512 = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
ISA_avx2   = -mavx2 -mfma -mf16c
ISA_scalar =
OBJ       = $(LIB_SRC:%.c=$(BUILD)/obj/%.o) $(CPU_SRC:%.c=$(BUILD)/obj/%.o) \
            $(foreach i,avx512 avx2 scalar,$(SIMD_SRC:%.c=$(BUILD)/obj/%.$(i).o))
LIB       = $(BUILD)/libvecpipe.a
# what several unit tests share
UNIT_HELP = $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out tests/unit/test_%,$(wildcard tests/unit/*.c)))
UNITS     = $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))
FUZZ_OBJ  = $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tests/fuzz/*.c))

.DEFAULT_GOAL := all
all: $(PROGRAMS:%=$(BUILD)/bin/%) ## build the programs into build/bin
units: $(UNITS) ## build the unit tests into build/unit
fuzz: $(BUILD)/fuzz/fuzz ## build the fuzzer of the readers into build/fuzz

# Order only: says `make deps` in one line where a header is missing, and costs nothing afterwards.
$(BUILD)/headers.ok:
	@mkdir -p $(@D)
	@CC='$(CC)' scripts/deps --headers && touch $@
# Rewritten only when what it holds changes: other flags recompile, another list of objects makes the library anew.
STAMP_flags   = $(COMPILE) $(foreach i,avx512 avx2 scalar,$(ISA_$(i)))
STAMP_objects = $(sort $(OBJ:$(BUILD)/%=%))
$(BUILD)/%.stamp: FORCE
	@mkdir -p $(@D)
	@echo '$(STAMP_$*)' | cmp -s - $@ || echo '$(STAMP_$*)' >$@

$(BUILD)/obj/%.o: %.c $(BUILD)/flags.stamp | $(BUILD)/headers.ok
	@mkdir -p $(@D)
	$(COMPILE) -c -o $@ $<
define simd_rule
$$(BUILD)/obj/%.$(1).o: %.c $$(BUILD)/flags.stamp | $$(BUILD)/headers.ok
	@mkdir -p $$(@D)
	$$(COMPILE) $$(ISA_$(1)) -DVP_ISA_$(1) -DVP_ISA=$(1) -c -o $$@ $$<
endef
$(foreach i,avx512 avx2 scalar,$(eval $(call simd_rule,$(i))))
$(LIB): $(OBJ) $(BUILD)/objects.stamp
	rm -f $@ && ar rcs $@ $(OBJ)
$(BUILD)/bin/%: $(BUILD)/obj/tools/%.o $(LIB)
	@mkdir -p $(@D)
	$(LINK)

# The CUDA backend, a library that is opened at run time: for GPUs (cuda), and for a GPU on the host that proves its
# kernels where there is none (shim).
CUDA_SRC  = $(wildcard kernels/cuda/*.cu)
CUDA_HELP = kernels/arena.c lib/base/dtype.c lib/base/error.c
CUDA_ARCH = 80 90
# products of warp groups are for one architecture alone; vp_device.groups_from says where they run
CUDA_GROUP = $(patsubst %.cu,%,$(wildcard kernels/cuda/attn_group*.cu))
NVCC     ?= nvcc
CXX      ?= c++
NVBASE    = -std=c++20 -O3 -I. -MMD -MP --fmad=false -diag-suppress 177
NVCODE    = $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_80,code=compute_80
NVCODE_ONE = -gencode arch=compute_90,code=sm_90
$(CUDA_GROUP:%=$(BUILD)/obj/%.cuda.o): NVCODE = -gencode arch=compute_90a,code=sm_90a
$(CUDA_GROUP:%=$(BUILD)/obj/%.cubin): NVCODE_ONE = -gencode arch=compute_90a,code=sm_90a
NVFLAGS   = $(NVBASE) -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off
SHIMFLAGS = -std=c++20 -O1 -g1 -fPIC -DVP_SHIM -D_GNU_SOURCE -I. -MMD -MP -ffp-contract=off -fvisibility=hidden -mfma -Wall -Wextra \
            -Wno-unused-function -Wno-unknown-pragmas
STAMP_cuda = $(NVCC) $(NVFLAGS) $(CUDA_ARCH)
STAMP_shim = $(CXX) $(SHIMFLAGS)
$(BUILD)/obj/%.pic.o: %.c $(BUILD)/flags.stamp | $(BUILD)/headers.ok
	@mkdir -p $(@D)
	$(COMPILE) -fPIC -c -o $@ $<
$(BUILD)/obj/%.cuda.o: %.cu $(BUILD)/cuda.stamp
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) $(NVCODE) -c -o $@ $<
# for one architecture, with what ptxas says of every kernel; for the oldest one and as PTX, quickly: that it compiles
$(BUILD)/obj/%.cubin: %.cu $(BUILD)/cuda.stamp
	@mkdir -p $(@D)
	$(NVCC) $(NVBASE) $(NVCODE_ONE) -Xptxas -v -cubin -o $@ $< 2>$(@:.cubin=.ptxas) || { cat $(@:.cubin=.ptxas); exit 1; }
$(BUILD)/obj/%.sm_80.fatbin: %.cu $(BUILD)/cuda.stamp
	@mkdir -p $(@D)
	$(NVCC) $(NVBASE) -Ofc=mid -gencode arch=compute_80,'code=[compute_80,sm_80]' -fatbin -o $@ $<
$(BUILD)/obj/%.shim.o: %.cu $(BUILD)/shim.stamp
	@mkdir -p $(@D)
	$(CXX) -x c++ $(SHIMFLAGS) -c -o $@ $<
$(BUILD)/obj/%.shim.o: %.cc $(BUILD)/shim.stamp
	@mkdir -p $(@D)
	$(CXX) $(SHIMFLAGS) -c -o $@ $<
$(BUILD)/libvecpipe-cuda.so: $(CUDA_SRC:%.cu=$(BUILD)/obj/%.cuda.o) $(CUDA_HELP:%.c=$(BUILD)/obj/%.pic.o)
	$(NVCC) -shared -o $@ $^ -lcublasLt
$(BUILD)/shim/libvecpipe-cuda.so: $(CUDA_SRC:%.cu=$(BUILD)/obj/%.shim.o) $(patsubst %.cc,$(BUILD)/obj/%.shim.o,$(wildcard kernels/cuda/shim/*.cc)) \
            $(CUDA_HELP:%.c=$(BUILD)/obj/%.pic.o)
	@mkdir -p $(@D)
	$(CXX) -shared -o $@ $^
# what the GPU on the host must notice, and tests of the kernels' arithmetic
$(BUILD)/shim/check: $(patsubst %.cc,$(BUILD)/obj/%.shim.o,$(wildcard tests/shim/*.cc) $(filter-out %/product.cc,$(wildcard kernels/cuda/shim/*.cc)))
	@mkdir -p $(@D)
	$(CXX) -o $@ $^
cuda: all $(BUILD)/libvecpipe-cuda.so ## build the CUDA backend too (needs nvcc and cuBLAS)
cubins: $(CUDA_SRC:%.cu=$(BUILD)/obj/%.cubin) $(patsubst %.cu,$(BUILD)/obj/%.sm_80.fatbin,$(filter-out $(CUDA_GROUP:%=%.cu),$(CUDA_SRC)))
shim: $(BUILD)/shim/libvecpipe-cuda.so $(BUILD)/shim/check ## build the CUDA backend for a GPU on the host, to test its kernels
$(BUILD)/bench/gpu_rate: bench/gpu_rate.cu
	@mkdir -p $(@D)
	$(NVCC) -O2 $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a),code=sm_$(a)) -o $@ $< -lcublasLt
# so that gpu-check does not measure a kit of other sources
SOURCES_SUM = $(firstword $(shell cat $(sort $(SOURCES)) | sha256sum))
gpu-kit: cuda units $(BUILD)/bench/device $(BUILD)/bench/gpu_rate ## pack what gpu-check needs on a machine without the packages
	@BUILD=$(BUILD) SOURCES_SUM=$(SOURCES_SUM) scripts/gpu-kit
gpu-check: ## prove and measure the CUDA backend on a GPU, in under 8 minutes; NAME='part...' runs some
	@BUILD=$(BUILD) SOURCES_SUM=$(SOURCES_SUM) scripts/gpu-check $(NAME)
$(BUILD)/libunit.a: $(UNIT_HELP)
	rm -f $@ && ar rcs $@ $^
$(BUILD)/unit/%: $(BUILD)/obj/tests/unit/%.o $(BUILD)/libunit.a $(LIB)
	@mkdir -p $(@D)
	$(LINK)
$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(LIB)
	@mkdir -p $(@D)
	$(LINK)
$(BUILD)/fuzz/fuzz: $(FUZZ_OBJ) $(LIB)
	@mkdir -p $(@D)
	$(LINK)

deps: ## install the Debian packages that are missing
	@scripts/deps
models: ## fetch the two small models once into models/
	@scripts/models
test: deps ## everything: both builds, every test; NAME=part reruns what matches
	@$(MAKE) $(PARALLEL) -s --no-print-directory all units $(BUILD)/bench/device
	@$(MAKE) $(PARALLEL) -s --no-print-directory all units fuzz BUILD=$(BUILD)-sanitize SANITIZE=address,undefined
	@if command -v $(CXX) >/dev/null; then $(MAKE) $(PARALLEL) -s --no-print-directory shim; \
	    else echo 'make: no $(CXX): tests of the CUDA backend are skipped'; fi
	@! command -v $(NVCC) >/dev/null || $(MAKE) $(PARALLEL) -s --no-print-directory cubins
	@scripts/models || echo 'make: no models: the tests that need them are skipped'
	@BUILD=$(BUILD) tests/run $(NAME)
demo: deps ## embed Debian's package descriptions and ask questions
	@$(MAKE) $(PARALLEL) -q all >/dev/null 2>&1 || echo 'Building ...'
	@$(MAKE) $(PARALLEL) -s --no-print-directory all
	@scripts/models
	@BUILD=$(BUILD) scripts/demo
bench: all $(BUILD)/bench/peak $(BUILD)/bench/kernels $(BUILD)/bench/decode $(BUILD)/bench/rag ## measure against peers (BENCHMARKS.md); TRAIN=1: training
	@scripts/models
	@BUILD=$(BUILD) bench/$(if $(TRAIN),train,run).py
peers: ## install what bench compares with (several GB) into $(BUILD)/peers
	@scripts/venv $(BUILD)/peers torch sentence-transformers transformers peft gguf tokenizers faiss-cpu xllamacpp numpy msgpack xxhash
report: ## curves and results of a training run: make report RUN=DIR writes DIR/report.svg
	@command -v gnuplot >/dev/null || scripts/deps gnuplot-nox
	@scripts/report '$(RUN)'

install: all ## install under $(DESTDIR)$(PREFIX)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install $(BUILD)/bin $(PROGRAMS)
uninstall: ## remove what install put there
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install --remove

SOURCES   = $(wildcard lib/*.h lib/*/*.[ch] kernels/*.h kernels/*/*.[ch] tools/*.c tests/*.h tests/*/*.[ch] bench/*.[ch] \
            kernels/cuda/*.cu kernels/cuda/shim/*.* tests/shim/*.cc bench/*.cu)
SCRIPTS   = $(wildcard scripts/* examples/*.sh $(filter-out %/data %/presets %/rows %/prompts %.mk,$(wildcard pipelines/*)) pipelines/presets/* bench/stages bench/retrieval bench/grit bench/match bench/rerank bench/common.sh tests/run tests/cli/*.bash tests/cli/*.bats) .ci/run
fmt: ## format the C sources, renew the table of columns in vecpipe(5)
	clang-format -i $(SOURCES)
	@awk '/^\.\\" columns:/ { print; while (("schemas/table.sh" | getline line) > 0) print line; skip = 1 } \
	    /^\.\\" end of columns/ { skip = 0 } !skip' man/vecpipe.5 >man/vecpipe.5.new && mv man/vecpipe.5.new man/vecpipe.5
lint: ## check the format of the C sources, and the scripts
	@clang-format --dry-run -Werror $(SOURCES)
	@shellcheck -x -S warning $(SCRIPTS)
clean: ## remove the builds, and what `make peers` installed into them
	rm -rf $(BUILD) $(BUILD)-sanitize
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: all cuda cubins shim gpu-kit gpu-check units fuzz deps models test demo bench peers report install uninstall fmt lint clean help FORCE
.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
