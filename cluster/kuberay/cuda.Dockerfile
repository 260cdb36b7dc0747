# Paceline on CUDA devices: docker build -f cluster/kuberay/cuda.Dockerfile -t paceline:cuda .
# torch's wheels contain the CUDA libraries; the host only needs the driver.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PACELINE_CACHE=/models/cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# KubeRay's probes call wget; everything else comes from wheels.
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/paceline
COPY constraints.txt pyproject.toml README.md LICENSE ./
# Dependencies have their own layer, which a change of the code does not rebuild.
RUN pip install torch==2.13.0 \
    && mkdir -p parallel runtime actors cluster protos \
    && pip install -c constraints.txt -e '.[cluster]'

COPY parallel/ parallel/
COPY protos/ protos/
COPY runtime/ runtime/
COPY actors/ actors/
COPY cluster/ cluster/

RUN useradd --create-home --uid 1000 --gid 100 ray \
    && mkdir -p /models \
    && chown 1000:100 /models
USER 1000
WORKDIR /home/ray
