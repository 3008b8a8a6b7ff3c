# Souk in an image: the binary, the certificates that it trusts, and the TLS library of its Kafka client. It has no
# PostgreSQL: name a server. Everything is written below /var/lib/souk; the rest may be read-only.
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libc6-dev make pkg-config libssl-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /souk
COPY . .
# What the caches hold is in no image, so the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/souk/target \
    cargo build --release --locked --bin souk && cp target/release/souk /usr/local/bin/souk

FROM debian:12.12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/*
# By numbers: who runs it can tell that they are not root's, and gives them files.
RUN groupadd --gid 10001 souk \
    && useradd --uid 10001 --gid souk --no-create-home --home-dir /var/lib/souk --shell /usr/sbin/nologin souk \
    && install -d -o souk -g souk -m 0700 /var/lib/souk
COPY --from=build /usr/local/bin/souk /usr/local/bin/souk
USER 10001:10001
ENV SOUK__DATA=/var/lib/souk
EXPOSE 8080 7000
ENTRYPOINT ["souk"]
CMD ["serve"]
