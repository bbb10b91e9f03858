# Towpath's own image: one static program, no shell, not root. Both bases are
# build arguments so that they can be pinned by digest and mirrored.
ARG GO_IMAGE=docker.io/library/golang:1.26
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM ${GO_IMAGE} AS build
ARG VERSION=unknown
ARG REVISION=unknown
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY config config
COPY gitops gitops
COPY kaniko kaniko
COPY reconcile reconcile
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION} -X main.revision=${REVISION}" -o /towpath ./cmd/towpath

FROM ${BASE_IMAGE}
COPY --from=build /towpath /usr/local/bin/towpath
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/towpath"]
CMD ["run"]
