# jaxgen for NVIDIA GPUs:  docker build -f launch/docker/gpu.Dockerfile -t IMAGE .
FROM python:3.11-slim-bookworm

WORKDIR /jaxgen
# Libraries come first because they change less often than the code. jax[cuda13] includes CUDA,
# cuDNN and NCCL; the host needs a driver for CUDA 13 and the NVIDIA container toolkit.
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir jaxgen configs && touch jaxgen/__init__.py configs/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt '.[cuda]' \
    && pip uninstall --yes jaxgen
COPY jaxgen jaxgen
COPY configs configs
COPY launch launch
RUN pip install --no-cache-dir --no-deps --editable .
# bash does not forward SIGTERM to its children, so start the run with exec.
ENTRYPOINT []
CMD ["jaxgen", "--help"]
