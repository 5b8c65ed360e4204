# jaxgen for TPU hosts:  docker build -f launch/docker/tpu.Dockerfile -t IMAGE .
FROM python:3.11-slim-bookworm

WORKDIR /jaxgen
# The libraries first: they change less often than the code.
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir jaxgen configs && touch jaxgen/__init__.py configs/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt '.[tpu]' \
    && pip uninstall --yes jaxgen
COPY jaxgen jaxgen
COPY configs configs
COPY launch launch
RUN pip install --no-cache-dir --no-deps --editable .
# bash sends SIGTERM to nobody but itself; exec in the command passes it on.
ENTRYPOINT []
CMD ["jaxgen", "--help"]
