# One image for agent and workers: docker build --tag latencyprism:0.1.0 .

# The native sampler: a Rust extension that any CPython from 3.11 on loads. Both stages are Debian
# 12, so that what is linked here is found there.
FROM rust:1.88-slim-bookworm AS native
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /venv
WORKDIR /source
COPY collectors/native/Cargo.toml collectors/native/Cargo.lock collectors/native/pyproject.toml ./
COPY collectors/native/README.md collectors/native/THIRD_PARTY.md collectors/native/latencyprism_native.pyi ./
COPY collectors/native/src ./src
RUN /venv/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# The project itself: pure Python.
FROM python:3.11-slim-bookworm AS project
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY collectors collectors
COPY models models
COPY streams streams
COPY simulator simulator
COPY latencyprism latencyprism
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="LatencyPrism" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=native /wheels /wheels
COPY --from=project /wheels /wheels
# By file, not by name: an index must never get to choose what 'latencyprism' is.
RUN wheel=$(echo /wheels/latencyprism-*.whl) \
    && pip install --no-cache-dir /wheels/latencyprism_native-*.whl "${wheel}[collect,capture,nvidia,feeds,stream]" \
    && rm -rf /wheels \
    && useradd --system --uid 10001 --user-group --no-create-home latencyprism \
    && install --directory --owner latencyprism --group latencyprism /var/lib/latencyprism/notify
# The agent is run as root with SYS_PTRACE alone (docker-compose.yml); everything else needs no root.
USER 10001:10001
CMD ["latencyprism", "--help"]
