# The short way in; Meson does the work.
BUILD ?= build
PREFIX ?=
FUZZ_SECONDS ?= 60
MESON_OPTIONS ?=
PYTHON ?= /usr/bin/python3
ROW ?= all

SOURCES = $(shell find src include tests examples bench assets -name '*.[ch]')

.PHONY: all dependencies check demo base-model install bench bench-setup bench-torch format format-check fuzz clean help

all: dependencies $(BUILD)/build.ninja
	ninja -C $(BUILD)

dependencies:
	@scripts/install-dependencies.sh

$(BUILD)/build.ninja: | dependencies
	meson setup $(if $(PREFIX),--prefix=$(PREFIX)) $(MESON_OPTIONS) $(BUILD)

check: all
	@scripts/run-tests.sh $(BUILD)

demo: all
	scripts/demo.sh

base-model: all
	scripts/make-base-model.sh

install: all
	$(if $(PREFIX),meson configure --prefix=$(PREFIX) $(BUILD))
	meson install -C $(BUILD)

bench: all
	meson test -C $(BUILD) --benchmark --verbose

bench-setup:
	@PYTHON=$(PYTHON) scripts/install-dependencies.sh --bench

bench-torch: all
	$(PYTHON) bench/compare.py $(ROW) --build $(BUILD)

format:
	clang-format -i $(SOURCES)

format-check:
	clang-format --dry-run -Werror $(SOURCES)

fuzz:
	scripts/fuzz.sh build-fuzz $(FUZZ_SECONDS)

clean:
	rm -rf build build-*

help:
	@echo 'make               install what is missing, build build/tenon'
	@echo 'make check         run the tests; the last line counts them'
	@echo 'make demo          fine-tune the bundled model'
	@echo 'make install       install, below PREFIX=DIR if given, into the folder DESTDIR=DIR if given'
	@echo 'make base-model    make the bundled model anew'
	@echo 'make bench         run the measurements'
	@echo 'make bench-setup   install PyTorch, which only the next needs'
	@echo 'make bench-torch   measure beside PyTorch, ROW=all or one of docs/benchmarks.md'
	@echo 'make format        format the sources; format-check only looks'
	@echo 'make fuzz          fuzz every reader, FUZZ_SECONDS=60 each (needs clang)'
	@echo 'make clean         remove what was built'
	@echo
	@echo 'BUILD=DIR builds elsewhere; MESON_OPTIONS="-Dtests=false" goes to meson setup.'
