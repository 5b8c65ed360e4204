# jaxgen for TPU hosts:  docker build -f launch/docker/tpu.Dockerfile -t IMAGE .
FROM python:3.11-slim-bookworm

WORKDIR /jaxgen
# Libraries come first because they change less often than the code.
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir jaxgen configs && touch jaxgen/__init__.py configs/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt '.[tpu]' \
    && pip uninstall --yes jaxgen
COPY jaxgen jaxgen
COPY configs configs
COPY launch launch
RUN pip install --no-cache-dir --no-deps --editable .
# bash does not forward SIGTERM to its children, so start the run with exec.
ENTRYPOINT []
CMD ["jaxgen", "--help"]
