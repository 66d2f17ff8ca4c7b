# Limner with CUDA. How to run it: docs/guide/launch.md
#   docker build -t limner .
ARG CUDA=12.8.1
FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04

# gcc and the headers are what torch.compile calls
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1001 limner \
 && install -d -m 1777 /cache /data /data/runs

ENV PATH=/opt/limner/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    LIMNER_CACHE=/cache/limner/cache \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton
RUN python3 -m venv /opt/limner

# torch first: it is large, and changes less often than what follows
WORKDIR /src
COPY constraints.txt ./
RUN pip install -c constraints.txt "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install -c constraints.txt '.[gpu,optim,crop]'

USER limner
WORKDIR /data
VOLUME ["/cache", "/data/runs"]
ENTRYPOINT ["limner"]
CMD ["--help"]
