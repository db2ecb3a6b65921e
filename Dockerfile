# syntax=docker/dockerfile:1
#
#   docker build -t visiongraph:0.1.0 .                                        # CPU, with the demo's models
#   docker build -t visiongraph:0.1.0-cuda --build-arg TORCH=cu130 .           # GPU nodes; NVIDIA's driver is the node's
#   docker build -t visiongraph:0.1.0 --build-arg PIPELINE= .                  # models come from a volume at /models
#   docker run --network host --shm-size 2g visiongraph:0.1.0                  # serves the demo at 127.0.0.1:8000
#
# Packages of your own: FROM visiongraph:0.1.0, then RUN pip install YOUR-PACKAGE.

# The same minor version as in cluster.yaml.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH=cpu
ARG PIPELINE=configs/demo.yaml
ENV PATH=/opt/visiongraph/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all:
WORKDIR /src

# Packages first: they change less often than the code, and are a layer of their own. Of torch there, pip takes the
# version of the extra index, +cpu or +cu...: it counts as newer than the same one without.
COPY requirements.lock ./
RUN python -m venv /opt/visiongraph \
    && pip install --requirement requirements.lock --extra-index-url "https://download.pytorch.org/whl/${TORCH}"

COPY pyproject.toml README.md LICENSE ./
COPY classifiers classifiers
COPY graph graph
COPY serve_app serve_app
RUN pip install --no-deps .

# OpenCV, which ultralytics imports, needs these two libraries.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY configs configs
RUN mkdir /models \
    && if [ -n "${PIPELINE}" ]; then \
        VISIONGRAPH_CACHE=/models HF_HOME=/models/huggingface visiongraph models "${PIPELINE}" --download; \
    fi

FROM python:${PYTHON}-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home visiongraph
COPY --from=build /opt/visiongraph /opt/visiongraph
COPY --from=build /models /models
COPY configs /home/visiongraph/configs
ENV PATH=/opt/visiongraph/bin:$PATH \
    HF_HOME=/models/huggingface \
    VISIONGRAPH_CACHE=/models \
    VISIONGRAPH_MODELS=/models
# By its number: Kubernetes knows only then that it is not root.
USER 10001
WORKDIR /home/visiongraph
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/-/healthz', timeout=4)"]
CMD ["visiongraph", "serve", "configs/demo.yaml"]
