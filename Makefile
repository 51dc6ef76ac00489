# Everything runs in .venv, which the first target that needs it makes. It takes Python 3.11 or
# newer and pip, and nothing else. Where pip looks for packages is pip's own configuration.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c '$(IS_RECENT)' 2>/dev/null && { echo $$python; break; }; done)
IS_RECENT = import sys; sys.exit(sys.version_info < (3, 11))
TOO_OLD = srgan-edge needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11

# Tests and benchmarks start hundreds of processes, which load compiled modules, as those of users do.
export PYTHONDONTWRITEBYTECODE =

BIN = .venv/bin
RUNTIME = .venv/.runtime-installed
TOOLS = .venv/.tools-installed
DEMO = srgan_edge/demo
RESULTS = demo-output
# Of gpu-pack and gpu-train: parts to carry, photographs, minutes, and where the results go.
CARRY ?= carry
CALLS ?= 4
DATA ?= ../shared/data/train/free ../shared/data/train/wallpapers ../shared/data/train/city100
MINUTES ?= 9
OUT ?= build/gpu-train-out
# Rooms of tests/ whose code or tests differ from the last commit; the tests in its root are those
# of the modules that lie directly in srgan_edge/.
TOUCHED = $(shell changed=$$(git status --porcelain --untracked-files=all | cut -c 4-); \
	for room in $$(ls -d tests/*/ | cut -d / -f 2); do \
		echo "$$changed" | grep -qE "^(tests/|srgan_edge/|)$$room/" && echo tests/$$room; \
	done; \
	echo "$$changed" | grep -qE "^(srgan_edge|tests)/[a-z_]+\.py" && ls tests/test_*.py)

.PHONY: help demo test check types fuzz browser gpu gpu-pack gpu-train bench soak wheel pages clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## Upscale bundled clips and photos, clean and compressed, into demo-output/
	@mkdir -p $(RESULTS)
	$(BIN)/srgan-edge upscale $(DEMO)/clip.mp4 --tile 128 --overwrite -o $(RESULTS)/clip.mp4
	$(BIN)/srgan-edge upscale $(DEMO)/clip-crf30.mp4 --overwrite -o $(RESULTS)/clip-crf30.mp4
	$(BIN)/srgan-edge upscale $(DEMO)/photo.png --overwrite -o $(RESULTS)/photo.png
	$(BIN)/srgan-edge upscale $(DEMO)/photo-q50.jpg --overwrite -o $(RESULTS)/photo-q50.png
	$(BIN)/srgan-edge compare $(DEMO)/photo-q50.jpg $(RESULTS)/photo-q50.png \
		--crop 230,110,272,204 --overwrite -o $(RESULTS)/side-by-side.png
	@printf '\nThe results are here:\n'
	@printf '  %s\n' "$(CURDIR)/$(RESULTS)/clip.mp4          320x180 -> 1280x720, with its audio" \
		"$(CURDIR)/$(RESULTS)/clip-crf30.mp4    the same, compressed for the web" \
		"$(CURDIR)/$(RESULTS)/photo.png         240x180 -> 960x720" \
		"$(CURDIR)/$(RESULTS)/photo-q50.png     the same, saved as JPEG" \
		"$(CURDIR)/$(RESULTS)/side-by-side.png  the JPEG before and after"

# A process that crashed is not replaced: by files, pytest-xdist 3.8 would then wait for ever.
test: $(TOOLS) ## Run every test that this machine can run, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

check: types ## Lint, format, types and fast tests of the rooms touched since the last commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -m "not slow" tests/test_imports.py tests/test_words.py $(TOUCHED)

# mypy runs no import hooks: it needs the four folders in the places they have once installed.
types: $(TOOLS) ## Check the types of all four packages
	@rm -rf build/types && mkdir -p build/types/srgan_edge
	@cd build/types/srgan_edge && ln -s ../../../srgan_edge/* ../../../train ../../../export ../../../kernels .
	$(BIN)/mypy -p srgan_edge

fuzz: $(TOOLS) ## Fuzz what reads strangers' files, for ten minutes
	$(BIN)/python -m pip install --quiet 'atheris>=3.0'
	@for target in image statements video safetensors onnx onnx-edits spec passport wire protocol; do \
		echo "fuzzing $$target"; \
		PYTHONPATH=.:tests $(BIN)/python tests/fuzz/run_fuzz.py $$target 60 || exit 1; \
	done

browser: $(TOOLS) ## Check pages: types and lint of their scripts, and what they do in Chromium and Firefox
	cd tests/browser && npm install --no-package-lock --silent
	tests/browser/node_modules/.bin/tsc -p tests/browser
	tests/browser/node_modules/.bin/eslint -c tests/browser/eslint.config.mjs srgan_edge/*/page/page.js
	$(BIN)/python -m pytest -q tests/browser

gpu: ## Check and measure all that needs a GPU; the environment's Python, or else the machine's
	PYTHONPATH=. $(if $(wildcard $(BIN)/python),$(BIN)/python,python3) benchmarks/gpu.py

gpu-pack: $(TOOLS) ## Pack what a rented GPU needs into carry/: DATA="DIR ..." VGG=FILE VAL=DIR; docs/training.md
	PYTHONPATH=. $(BIN)/python benchmarks/gpu_train.py pack $(foreach folder,$(DATA),--data $(folder)) \
		--calls $(CALLS) $(if $(VGG),--vgg-weights $(VGG)) $(if $(VAL),--val $(VAL)) \
		$(foreach file,$(TEACHERS),--teacher $(file)) $(if $(WHEELS),--wheels $(WHEELS)) \
		$(if $(BACK),--back $(BACK)) -o $(firstword $(CARRY))

gpu-train: ## Train every recipe on this machine's GPU for MINUTES=9, from carry/ into OUT
	PYTHONPATH=. $(if $(wildcard $(BIN)/python),$(BIN)/python,python3) benchmarks/gpu_train.py run \
		$(foreach folder,$(CARRY),--carry $(folder)) --minutes $(MINUTES) -o $(OUT) $(OPTIONS)

bench: $(TOOLS) ## Measure engines against PyTorch and other programs, and the video pipeline
	@mkdir -p build
	$(BIN)/srgan-edge bench edge-x4 srgan-x4 --seconds 120 --json > build/engines.json
	@mv build/engines.json benchmarks/results/engines-$$(nproc)-cores.json
	$(BIN)/python benchmarks/compare.py --out benchmarks/results/programs-$$(nproc)-cores.json
	$(BIN)/python benchmarks/pipeline.py --out benchmarks/results/pipeline-$$(nproc)-cores.json

soak: $(TOOLS) ## Upscale for 30 minutes and through 1,100 kills, serve for 10 and through 100; memory stays flat
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/soak_ray.py
	$(BIN)/python benchmarks/soak_service.py

wheel: $(TOOLS) ## Build dist/srgan_edge-*.whl
	@rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

pages: wheel ## Run every command of README.md and docs/ against the wheel, in environments of its own
	$(BIN)/python -u tests/pages/run_pages.py "$$(ls -t dist/*.whl | head -n 1)" --lend .venv

clean: ## Remove what these targets made; .venv stays
	rm -rf build dist $(RESULTS) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find srgan_edge train export kernels tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(IS_RECENT)' || { echo "$(TOO_OLD)" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

$(RUNTIME): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TOOLS): pyproject.toml | $(BIN)/python
	@echo "The tests need torch, which is large: this takes some minutes, once."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(RUNTIME)
