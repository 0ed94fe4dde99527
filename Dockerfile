# nstexp in a container. Not root; results go to /data, which is a folder of yours:
#
#   docker build --tag nstexp .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" nstexp content=photo.jpg style=painting.jpg
#
# The wheel of torch for Linux carries CUDA: on a machine with the NVIDIA container toolkit, `docker run --gpus all` is
# all that a GPU needs. Arguments of `docker build` (`--build-arg NAME=VALUE`) change what is installed:
#
#   BASE          any image with Python >= 3.10 and pip, such as one that brings a certain CUDA
#   TORCH_INDEX   a package index with other builds of torch, such as those for CPUs only, which are far smaller
#   EXTRAS        extras of pyproject.toml, such as [export,heif]
ARG BASE=python:3.12-slim
# hadolint ignore=DL3006
FROM ${BASE}

ARG TORCH_INDEX=
ARG EXTRAS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE THIRD_PARTY.md ./
COPY conf conf
COPY nstexp nstexp
RUN python -m pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".$EXTRAS" \
    && rm -rf /src/*

# Weights that are downloaded on request, settings of W&B and caches go to the home folder, whoever runs the container.
ENV HOME=/home/nstexp
RUN mkdir --mode=777 /home/nstexp /data
USER 1000:1000
WORKDIR /data
VOLUME /data
ENTRYPOINT ["nstexp"]
