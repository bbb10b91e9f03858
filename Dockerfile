# Towpath's own image: one static program, not root, no shell.
#
#   docker build --build-arg VERSION=v1.2.3 --build-arg REVISION=$(git rev-parse HEAD) .
#
# Both bases are build arguments, so that they can be mirrored and pinned by
# digest: a tag is whatever its registry says today. `crane digest IMAGE:TAG`, or
# `skopeo inspect --format '{{.Digest}}' docker://IMAGE:TAG`, prints the digest.
#
#   GO_IMAGE=registry.example.com/mirror/golang@sha256:…     any image with a shell and the Go of go.mod
#   BASE_IMAGE=registry.example.com/mirror/static@sha256:…   any image with certificate authorities
#
# In Towpath's own config they are `build.args`, and `build.pull` reaches a
# mirror that asks for a credential.
ARG GO_IMAGE=docker.io/library/golang:1.26
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY config config
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
