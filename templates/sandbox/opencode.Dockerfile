# OpenCode on Debian with git and ripgrep; its own program needs no Node.js.
#
#   onramp agent image opencode | docker build -t onramp/opencode:1.18.33 -
#
# Tools of your own go into the last stage: give BASE an image that has them and apt-get, or start a Dockerfile of your own from
# this image. The versions are those that the reader of the agent's output was tried with; the package is held against its hash.
ARG BASE=debian:bookworm-20250520-slim
ARG NODE=node:20.19.2-bookworm-slim

FROM ${NODE} AS package
WORKDIR /package
RUN set -eu; \
    case $(dpkg --print-architecture) in \
      amd64) package=opencode-linux-x64@1.18.33 \
        sha512=abfb7fde9d824f1393f72da4be37ac6ff2d969bdbed5eaa5861580d3605eea68d3b6662d341701b2b239c83a38170ed948f056da8c8c20630d46a88a4238805b ;; \
      *) echo "OpenCode 1.18.33 is not pinned here for $(dpkg --print-architecture)" >&2; exit 1 ;; \
    esac; \
    file=$(npm pack --silent "$package"); \
    echo "$sha512  $file" | sha512sum -c -; \
    tar -xzf "$file"; \
    install -D -m 755 package/bin/opencode /out/opencode

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git ripgrep \
    && rm -rf /var/lib/apt/lists/*
COPY --from=package /out/ /usr/local/bin/
# Sandboxes choose a user of their own; whoever runs the image otherwise is nobody either.
USER 65534:65534
