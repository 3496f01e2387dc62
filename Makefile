# Two commands: `make serve` and `make test`. `make help` lists the rest.

# The interpreter of .venv, 3.11 to 3.13; when empty, the first that uv finds.
PYTHON ?=
# Another package index for PyTorch, for example one with CPU-only builds.
TORCH_INDEX ?=
# What is set with = comes from the command line alone: environments have a NAME of their own, as WSL's.
# What make serve and make archive work on; all when empty.
MODELS =
MODEL =
SOURCE =
# A model of your own: its name, and what it is.
NAME =
HANDLER =
FORMAT =
LONG =
# What make transcribe and make annotate read and write, and how.
IN =
OUT =
SUBTITLES =
EXPLAIN =
WORKERS =
DRY_RUN =
BULK = --in "$(IN)" --out "$(OUT)" $(if $(MODEL),--archive "model_store/$(MODEL).mar") \
	$(if $(FORMAT),--format $(FORMAT)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(DRY_RUN),--dry-run)
# How much make fuzz, make soak and make front-door do.
REQUESTS =
SEED =
MINUTES =
DEEP =
# Which of the library make mutants breaks.
MODULES =
MOST =
# Where and what make gpu runs, its interpreter where .venv cannot be made, and what is there.
DEVICE =
SECTIONS =
RECORDINGS =
GPU_PYTHON ?=
WHEELS_PYTHON ?=
HAVE =

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Extras and groups that were added to .venv leave a stamp each, and stay in it.
# Asked each time: make remembers what it has seen of a folder.
STAMPS = $(shell ls -A $(VENV) 2>/dev/null)
ADDED = $(patsubst .extra-%,--extra %,$(filter .extra-%,$(STAMPS))) \
	$(patsubst .group-%,--group %,$(filter .group-%,$(STAMPS)))
BOOTSTRAP := PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" sh scripts/bootstrap.sh $(VENV)
export PYTHONPATH := $(CURDIR):$(CURDIR)/handlers:$(CURDIR)/scripts

.DEFAULT_GOAL := help
# An extra is installed beside those that have left their stamps, so one after the other, also with -j.
.NOTPARALLEL:
.PHONY: help setup lm openvino telemetry model-parallel gpu gpu-wheels serve stop cluster transcribe annotate archive test lint types demo-models demo-scores \
	benchmark doctor fuzz mutants chaos soak front-door bulk-trial cluster-trial sbom audit docs lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with the locked packages; the other targets do it by themselves

$(READY): uv.lock pyproject.toml
	@$(BOOTSTRAP) $(ADDED)
	@touch $@

$(VENV)/.extra-%: $(READY)
	@$(BOOTSTRAP) $(ADDED) --extra $*
	@touch $@

$(VENV)/.group-%: $(READY)
	@$(BOOTSTRAP) $(ADDED) --group $*
	@touch $@

serve: $(READY)  ## serve the archives and try each; MODELS="wav2vec2 emformer_asr" for a choice
	@$(BIN)/python scripts/serve.py start $(MODELS)

stop: $(READY)  ## stop what make serve left running
	@$(BIN)/python scripts/serve.py stop

cluster: $(VENV)/.extra-cluster  ## serve the archives with Ray on this machine; MODELS="wav2vec2" for a choice
	@$(BIN)/python scripts/build_archives.py $(MODELS)
	@$(BIN)/python -m cluster up $(MODELS)

transcribe: $(VENV)/.extra-cluster  ## recognise a folder: IN=, OUT=; MODEL=, FORMAT=jsonl, SUBTITLES=vtt, DRY_RUN=1
	@$(BIN)/python -m bulk transcribe $(BULK) $(if $(SUBTITLES),--subtitles $(SUBTITLES))

annotate: $(VENV)/.extra-cluster  ## answer a table of texts: IN=, OUT=; MODEL=, FORMAT=jsonl, EXPLAIN=1, DRY_RUN=1
	@$(BIN)/python -m bulk annotate $(BULK) $(if $(EXPLAIN),--explain)

archive: $(READY)  ## build archives; MODEL= or NAME= with HANDLER=; SOURCE=, FORMAT=
	@$(BIN)/python scripts/build_archives.py $(MODEL) \
		$(if $(NAME),--name="$(NAME)") $(if $(HANDLER),--handler="$(HANDLER)") \
		$(if $(SOURCE),--source "$(SOURCE)") $(if $(FORMAT),--format "$(FORMAT)")

lm: $(VENV)/.extra-lm  ## add beam search with a language model for Wav2Vec2 (a C++ compiler needed)

openvino: $(VENV)/.extra-openvino  ## add OpenVINO, which text models and Wav2Vec2 can run in on a CPU

telemetry: $(VENV)/.extra-telemetry  ## add traces of the gateway's requests

model-parallel: $(VENV)/.extra-model-parallel  ## add text models spread over several GPUs

test: lint types $(VENV)/.group-docs  ## lint, types, and the unit, handler and server tests
	@$(MAKE) -s lm \
		|| echo "The extra lm could not be installed: its tests are skipped."
	@sh scripts/install_chromium.sh \
		|| echo "Chromium could not be installed: the tests of the page at / fail, those of other pages are skipped."
	@$(BIN)/python -m pytest -n 2 --dist loadscope

lint: $(READY)  ## ruff
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: $(READY) $(VENV)/.extra-cluster $(VENV)/.extra-openvino $(VENV)/.extra-telemetry  ## mypy, strict
	@$(BIN)/mypy

demo-models: $(READY)  ## train the demo models from nothing (espeak-ng needed); MODEL= for one
	@$(BIN)/python -m demo_models.train $(MODEL)

demo-scores: $(READY)  ## measure the demo models as they are served (espeak-ng needed); MODEL= for one
	@$(BIN)/python -m demo_models.score $(MODEL)

benchmark: $(READY) $(if $(filter beam lookup peers,$(or $(MODEL),peers)),$(VENV)/.group-peers)  ## compare with what people run today; MODEL= for one, LONG=1 with an hour of audio
	@$(BIN)/python -m benchmarks $(MODEL) $(if $(LONG),--long)

doctor: $(READY)  ## say what this machine and its server are like, and what looks wrong
	@$(BIN)/python scripts/doctor.py

fuzz: $(READY) $(if $(DEEP),$(VENV)/.group-fuzz)  ## send broken requests beside good ones; REQUESTS=11000, SEED=1; DEEP=1 searches for an hour, MINUTES=60
ifdef DEEP
	@$(BIN)/python -m trials.deep_fuzz $(if $(MINUTES),--minutes $(MINUTES))
else
	@$(BIN)/python -m trials.fuzz $(if $(REQUESTS),--requests $(REQUESTS)) $(if $(SEED),--seed $(SEED))
endif

mutants: $(VENV)/.group-mutants  ## break the library in thousands of ways, and count what its tests notice; MODULES="text/windows.py", MOST=40 of each
	@$(BIN)/python -m trials.mutants $(MODULES) $(if $(MOST),--most $(MOST))

chaos: $(READY)  ## break a server under load, and say what its clients saw
	@$(BIN)/python -m trials.chaos

soak: $(READY)  ## keep a server busy for MINUTES=30, then ask too much of it
	@$(BIN)/python -m trials.soak $(if $(MINUTES),--minutes $(MINUTES))

front-door: $(READY)  ## break and load the gateway; REQUESTS=5000, SEED=1, MINUTES=10
	@$(BIN)/python -m trials.front_door $(if $(REQUESTS),--requests $(REQUESTS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

gpu: $(if $(GPU_PYTHON),,$(READY))  ## prove on a GPU what was only ever run on CPUs; DEVICE=cpu for a little of it, SECTIONS="parity speech"
	@$(or $(GPU_PYTHON),$(BIN)/python) -m gpu $(SECTIONS) $(if $(DEVICE),--device $(DEVICE)) \
		$(if $(RECORDINGS),--recordings $(RECORDINGS)) $(if $(OUT),--out $(OUT))

gpu-wheels:  ## download what make gpu needs where there is no network; OUT=wheels, WHEELS_PYTHON=3.12
	@sh scripts/install_uv.sh .build/uv
	@WHEELS_PYTHON=$(WHEELS_PYTHON) sh scripts/gpu/wheels.sh $(or $(OUT),wheels) $(HAVE)

bulk-trial: $(VENV)/.extra-cluster  ## transcribe 5,000 recordings, killed twenty times on the way; SEED=1
	@$(BIN)/python scripts/build_archives.py wav2vec2
	@$(BIN)/python -m trials.bulk $(if $(SEED),--seed $(SEED))

cluster-trial: $(VENV)/.extra-cluster  ## load a Ray of three nodes while replicas come, go and die
	@$(BIN)/python scripts/build_archives.py bert_seq_classification \
		bert_token_classification emformer_asr_live
	@$(BIN)/python -m trials.ray_nodes

sbom: $(READY)  ## list the licences of all dependencies, and write a CycloneDX bill of materials
	@sh scripts/install_uv.sh .build/uv
	@$(BIN)/python scripts/sbom.py

audit: $(READY)  ## look up the known vulnerabilities of all dependencies (network needed)
	@sh scripts/install_uv.sh .build/uv
	@.build/uv/bin/uv audit --frozen

docs: $(VENV)/.group-docs  ## build the documentation as a site in .build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "The documentation is in .build/site/index.html."

lock:  ## choose versions anew and write uv.lock
	@sh scripts/install_uv.sh .build/uv
	@.build/uv/bin/uv lock --upgrade
	@echo uv | .build/uv/bin/uv pip compile - --universal --generate-hashes --no-header --no-annotate \
		--quiet --upgrade --output-file scripts/uv-requirements.txt

clean:  ## stop the server and remove what was built, but not .venv and uv, which made it
	@test ! -e .build/server/server.json -a ! -e .build/server/gateway.json \
		|| $(BIN)/python scripts/serve.py stop
	@test ! -d .build || find .build -mindepth 1 -maxdepth 1 ! -name uv -exec rm -rf {} +
	@for each in model_store/*/MAR-INF; do rm -rf "$${each%/MAR-INF}"; done
	rm -rf model_store/*.mar model_store/*.tar.gz model_store/.*.json model_store/.archive-*
