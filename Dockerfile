# Towpath's own image: one static program, not root, no shell. And, as the target
# kaniko, the image that its build Jobs run: the executor that its tests use.
#
#   docker build --build-arg VERSION=v1.2.3 --build-arg REVISION=$(git rev-parse HEAD) .
#   docker build --target kaniko .
#
# Both bases are build arguments, so that they can be mirrored and pinned by
# digest: a tag is whatever its registry says today. `crane digest IMAGE:TAG`, or
# `skopeo inspect --format '{{.Digest}}' docker://IMAGE:TAG`, prints the digest.
#
#   GO_IMAGE=registry.example.com/mirror/golang@sha256:…     any image with a shell, the Go of go.mod and certificate authorities
#   BASE_IMAGE=registry.example.com/mirror/static@sha256:…   any image with certificate authorities
#
# In Towpath's own config they are `build.args`, and `build.pull` reaches a
# mirror that asks for a credential.
ARG GO_IMAGE=docker.io/library/golang:1.26
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

# The executor, in a tree as the image has it. Whoever builds every stage before
# the one asked for, as kaniko does, finds nothing to do here: compiling takes
# minutes. kaniko cannot build the target kaniko, since it leaves its own
# directory out of every image; Docker and Buildah can.
FROM ${GO_IMAGE} AS executor
ARG TARGETSTAGE
WORKDIR /src
COPY e2e/tools/kaniko/go.mod e2e/tools/kaniko/go.sum ./
RUN install -d -m 1777 /tree/tmp && \
    case "${TARGETSTAGE}" in \
    kaniko | executor | '') \
        if [ "${TARGETSTAGE}" != executor ] && [ -e /kaniko/executor ]; then \
            echo "kaniko leaves /kaniko out of what it builds: build this target with another builder" >&2; exit 1; \
        fi; \
        CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /tree/kaniko/executor github.com/chainguard-dev/kaniko/cmd/executor && go clean -cache -modcache && \
        install -D -m 644 /etc/ssl/certs/ca-certificates.crt /tree/kaniko/ssl/certs/ca-certificates.crt ;; \
    esac

FROM scratch AS kaniko
COPY --from=executor /tree /
LABEL org.opencontainers.image.title="kaniko" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV HOME=/root \
    USER=root \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/kaniko \
    SSL_CERT_DIR=/kaniko/ssl/certs \
    DOCKER_CONFIG=/kaniko/.docker
ENTRYPOINT ["/kaniko/executor"]

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY config config
COPY deploy deploy
COPY gitops gitops
COPY kaniko kaniko
COPY reconcile reconcile
ARG VERSION=unknown
ARG REVISION=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION} -X main.revision=${REVISION}" -o /towpath ./cmd/towpath

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="towpath" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /towpath /usr/local/bin/towpath
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/towpath"]
CMD ["run"]
