# The whole image is one tree, /probe, that needs nothing beside the kernel: its own interpreter,
# loader and C library, the dependencies and probe. No shell, no package manager, nothing to
# patch but what probe runs on. The same tree works when copied into an application's container
# (examples/k8s/exec-in-app).
#
# BASE is where the interpreter and the C library come from: any image of glibc with Python 3.11 or later and
# pip, for amd64 or arm64; what is built is of the platform that it is built for. It is named by digest, so
# that the same sources make the same image; a new one comes with a commit (RELEASING.md).
ARG BASE=docker.io/library/python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
FROM ${BASE} AS build
WORKDIR /build
COPY image/tools.lock requirements.lock ./
ENV PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1
RUN python3 -m pip install --quiet --target tools -r tools.lock \
 && python3 -m pip install --quiet --target site -r requirements.lock
COPY image/bundle.py image/sbom.py ./
COPY probe probe
# PY_SPY=1 adds py-spy (7 MB), which takes the stacks of an application in Python.
ARG PY_SPY=
RUN python3 bundle.py /probe site probe tools ${PY_SPY:+--py-spy} \
 && python3 sbom.py /probe > /probe/sbom.cdx.json

FROM scratch
COPY --from=build /probe /probe
ENV PATH=/probe/bin
# Nobody's. Where evidence is wanted, the pod gives both containers the same uid and gid instead.
USER 65532:65532
EXPOSE 9809
HEALTHCHECK --interval=10s --timeout=2s --start-period=30s \
    CMD ["/probe/bin/probe", "check", "--sidecar"]
ENTRYPOINT ["/probe/bin/probe"]
CMD ["serve"]
ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="accept-probe" \
      org.opencontainers.image.description="A health-check sidecar that watches the accept queue" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
