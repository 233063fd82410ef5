# Claude Code on Debian with git and ripgrep; its own program needs no Node.js.
#
#   onramp agent image claude | docker build -t onramp/claude:2.1.197 -
#
# Tools of your own go into the last stage: give BASE an image that has them and apt-get, or start a Dockerfile of your own from
# this image. The versions are those that the reader of the agent's output was tried with; the package is held against its hash.
ARG BASE=debian:bookworm-20250520-slim
ARG NODE=node:20.19.2-bookworm-slim

FROM ${NODE} AS package
WORKDIR /package
RUN set -eu; \
    case $(dpkg --print-architecture) in \
      amd64) package=@anthropic-ai/claude-code-linux-x64@2.1.197 \
        sha512=ac894a9ab63440cc8780f457fcc616363d37f6f6f2a480af23d8d57b7aecf57cb64673649724a3c8fc6a87ad9069dce7ce87ed10edb7b98435b4578f710fff6e ;; \
      arm64) package=@anthropic-ai/claude-code-linux-arm64@2.1.197 \
        sha512=b31e92a068f730d479095f980e436d6cb1d76b5b67dc6f2a7181609b5827bce8bd38341429b8623df6a79097e44cc0d57a43af9ca2619ba8bd8461483f3a7b71 ;; \
      *) echo "Claude Code 2.1.197 is not pinned here for $(dpkg --print-architecture)" >&2; exit 1 ;; \
    esac; \
    file=$(npm pack --silent "$package"); \
    echo "$sha512  $file" | sha512sum -c -; \
    tar -xzf "$file"; \
    install -D -m 755 package/claude /out/claude

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git ripgrep \
    && rm -rf /var/lib/apt/lists/*
COPY --from=package /out/ /usr/local/bin/
# Sandboxes choose a user of their own; whoever runs the image otherwise is nobody either.
USER 65534:65534
