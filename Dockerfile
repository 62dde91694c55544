# The control plane: one static program. Build with `docker build .`; run with docker-compose.yml.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /millraced ./cmd/millraced && mkdir /blobs

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# A volume that is mounted here takes over whose it is.
COPY --from=build --chown=65532:65532 /blobs /blobs
USER 65532:65532
COPY --from=build /millraced /millraced
EXPOSE 8080 9090
ENTRYPOINT ["/millraced"]
CMD ["serve"]
