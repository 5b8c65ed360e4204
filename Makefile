# Every target creates .venv first; a fresh machine needs only Python >= 3.11 and make.

PYTHON ?= python3
SYSTEM ?= iomm
WORKDIR ?= runs/quickstart$(if $(filter-out iomm,$(SYSTEM)),_$(SYSTEM))
PY := .venv/bin/python
# Errors only: pip's warnings are about its own version and indices, not about jaxgen.
PIP := -m pip --quiet --quiet --disable-pip-version-check
INSTALL := $(PY) $(PIP) install --constraint constraints.txt --editable
HEADER := \# The versions that jaxgen was last tested with (Python 3.11, Linux); make constraints

.PHONY: hello quickstart smoke test test-slow test-slurm test-browser test-package docs plan-tpu \
  plan-gpu constraints

# Draws from the small trained run that is shipped.
hello: .venv/installed
	.venv/bin/jaxgen hello

# SYSTEM=NAME runs the stages of launch/stages/NAME.sh.
quickstart: .venv/installed
	SYSTEM=$(SYSTEM) bash launch/quickstart.sh $(WORKDIR)

# Trains, saves, resumes and samples every recipe and stage for a few steps.
smoke: .venv/installed
	bash launch/smoke.sh

test: .venv/installed-test
	$(PY) -m pytest -n 2 --dist loadfile --max-worker-restart=0 -q

test-slow: .venv/installed-test
	$(PY) -m pytest -q -m slow

# Trains under a real single-node Slurm; installs Slurm if it is missing.
test-slurm: .venv/installed-test
	bash tools/test_slurm.sh

# Uses the page of a server in a real Chromium; installs it if it is missing.
test-browser: .venv/installed-test
	bash tools/test_browser.sh

# Builds the package and uses it in a clean environment of each Python; resolves all extras at once.
PYTHONS ?= python3.11 python3.12 python3.13 extras
test-package:
	bash tools/test_package.sh $(PYTHONS)

# Builds the documentation site into build/docs; warnings are errors. For its search, serve it:
# .venv/bin/python -m http.server -d build/docs
docs: .venv/installed-test
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

# Plans every full-size stage on TPU slices; writes docs/plans and the table in docs/scaling.md.
plan-tpu: .venv/installed-test
	$(PY) tools/plans.py tpu

# The same on GPU nodes, in a separate environment because the CUDA plugin takes 4.6 GB.
plan-gpu: .venv-plan-gpu/installed
	.venv-plan-gpu/bin/python tools/plans.py gpu

# Rewrites constraints.txt with the installed versions.
constraints: .venv/installed-test
	echo '$(HEADER)' > constraints.txt
	$(PY) -m pip freeze --exclude-editable | sed 's/+cpu$$//' | sort -f >> constraints.txt
	touch .venv/installed .venv/installed-test

$(PY):
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg pyproject.toml constraints.txt | $(PY)
	$(INSTALL) .
	touch $@

# Resolves all dependencies at once, so that none of them changes the pinned torch.
.venv/installed-test: setup.cfg pyproject.toml constraints.txt | $(PY)
	$(INSTALL) '.[test]'
	touch $@ .venv/installed

.venv-plan-gpu/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-plan-gpu
	.venv-plan-gpu/bin/python $(PIP) install --constraint constraints.txt --editable '.[plan-gpu]'
	touch $@
