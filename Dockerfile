# usersync without the embedded PostgreSQL: it syncs real databases only. Runs as nobody in particular, on a read-only root:
#   docker run --rm --read-only -v ./config.yaml:/etc/usersync/config.yaml:ro --env-file usersync.env usersync run -q --job auroville
# A digest is better still: --build-arg PYTHON=python:3.13.9-slim-trixie@sha256:...
ARG PYTHON=python:3.13.9-slim-trixie

FROM ${PYTHON} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# /opt/usersync gets no pip of its own: /opt/build's installs into it. Wheels only, so no compiler is needed.
COPY requirements/build.lock requirements/runtime.lock requirements/
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.lock
RUN python -m venv --without-pip /opt/usersync && /opt/build/bin/pip --python /opt/usersync/bin/python install --require-hashes --only-binary :all: --no-compile -r requirements/runtime.lock

COPY pyproject.toml README.md LICENSE ./
COPY usersync_cli usersync_cli
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . && /opt/build/bin/pip --python /opt/usersync/bin/python install --no-deps --no-compile dist/usersync-*.whl
# Compiled here, because nothing can be written later; by content, because copying an image may change the times of files.
RUN /opt/usersync/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/usersync/lib

FROM ${PYTHON}
LABEL org.opencontainers.image.title="usersync" \
      org.opencontainers.image.description="Copies users and customers from the systems that own them into a Postgres that you own; then exits." \
      org.opencontainers.image.licenses="MIT"
COPY --from=builder /opt/usersync /opt/usersync
# production: a config that falls back to `embedded` is refused instead of syncing into a throw-away database.
ENV PATH=/opt/usersync/bin:$PATH \
    HOME=/nonexistent \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    USERSYNC_ENV=production \
    USERSYNC_CONFIG=/etc/usersync/config.yaml
WORKDIR /etc/usersync
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
# No shell in between: usersync is PID 1, gets SIGTERM itself and stops at the next safe point.
STOPSIGNAL SIGTERM
ENTRYPOINT ["usersync"]
CMD ["--help"]
