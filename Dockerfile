# syntax=docker/dockerfile:1
#
# Training image of hf_ats. The base has no CUDA and no compiler: what is needed comes with the packages.
#
#   docker build -t hf_ats .
#   docker run --rm -v "$PWD/runs:/runs" hf_ats --architecture tiny --output_dir /runs/tiny
#   docker run --rm --gpus all -v "$PWD/runs:/runs" hf_ats ...
#   docker run --rm --gpus all -v "$PWD/runs:/runs" --entrypoint torchrun hf_ats --nproc_per_node 2 \
#       -m hf_ats.scripts.train_translation ...
#   docker run --rm -v "$PWD/runs:/runs" --entrypoint hf-ats hf_ats --help
#
# TORCH_INDEX_URL chooses the build of torch: the index that pip takes it from (PyTorch's installation page lists one per
# build). What pip's default index has for Linux on x86-64 runs on the CPU and on NVIDIA GPUs, but brings
# gigabytes of CUDA libraries; give the index of the CPU builds for a small image, or of another CUDA for older drivers:
#
#   docker build --build-arg TORCH_INDEX_URL=<index of the CPU builds> -t hf_ats:cpu .

ARG PYTHON_VERSION=3.12
FROM python:${PYTHON_VERSION}-slim

ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX_URL=

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/hf_ats

# A layer of its own, since torch is most of the image and seldom changes. pip ignores an empty setting.
RUN PIP_INDEX_URL="${TORCH_INDEX_URL}" pip install "torch==${TORCH_VERSION}"

COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY model_cards model_cards
COPY recipes recipes
COPY scripts scripts
COPY hf_ats hf_ats
# The tested versions, except that the torch of the layer above stays.
RUN sed -i "s/^torch==.*/torch==${TORCH_VERSION}/" constraints.txt \
    && pip install -c constraints.txt .

# A fixed id, so that folders can be prepared for it; mounted folders must be writable by it, or run with --user.
RUN useradd --create-home --uid 1000 ats \
    && install --directory --owner ats --group ats /runs
USER 1000
WORKDIR /runs
VOLUME /runs

ENTRYPOINT ["hf-ats", "train"]
CMD ["--help"]
