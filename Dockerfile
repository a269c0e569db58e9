# The stack of a CUDA machine, with everything compiled:
#   docker build -t lens-openrlhf .
#   docker run --gpus all --shm-size 16g -it -v "$PWD/data:/lens_openrlhf/data" -v "$PWD/runs:/lens_openrlhf/runs" \
#     -v "$HOME/.cache/huggingface:/models" -e HF_HOME=/models lens-openrlhf
#   (inside) lens-openrlhf doctor
#
# torch 2.13.0 is built with CUDA 13.0. It is the devel image, as flash-attn and our kernels are compiled here, and
# DeepSpeed's fused Adam when a run first starts.
FROM ghcr.io/astral-sh/uv:0.10.9 AS uv
FROM nvidia/cuda:13.0.3-devel-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions of these packages come with the image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ git make ninja-build \
    && rm -rf /var/lib/apt/lists/*

# OpenRLHF is published for Python 3.11, which this release of Ubuntu has not.
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_PYTHON_INSTALL_DIR=/opt/python \
    VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_CONSTRAINT=/opt/requirements/gpu_constraints.txt
RUN uv python install 3.11.14 && uv venv --seed --python 3.11.14 "$VIRTUAL_ENV"

# Architectures to compile for, and how many compilers at once (flash-attn takes about 4 GB of memory each).
ARG TORCH_CUDA_ARCH_LIST="8.0;9.0;10.0;12.0+PTX"
ARG FLASH_ATTN_CUDA_ARCHS="80;90;100;120"
ARG MAX_JOBS=8

COPY requirements/gpu.txt requirements/gpu_constraints.txt /opt/requirements/
# What flash-attn is built with must be there before it.
# hadolint ignore=DL3013
RUN pip install "torch===2.13.0" wheel ninja setuptools packaging psutil \
    && pip install --no-build-isolation -r /opt/requirements/gpu.txt

WORKDIR /lens_openrlhf
COPY . .
RUN LENS_BUILD_CUDA=1 pip install --no-deps --no-build-isolation -e .
CMD ["bash"]
