# Codex on Debian with git and ripgrep; its own program is static and needs no Node.js.
#
#   onramp agent image codex | docker build -t onramp/codex:0.169.0 -
#
# Tools of your own go into the last stage: give BASE an image that has them and apt-get, or start a Dockerfile of your own from
# this image. The versions are those that the reader of the agent's output was tried with; the package is held against its hash.
ARG BASE=debian:bookworm-20250520-slim
ARG NODE=node:20.19.2-bookworm-slim

FROM ${NODE} AS package
WORKDIR /package
RUN set -eu; \
    case $(dpkg --print-architecture) in \
      amd64) package=@openai/codex@0.169.0-linux-x64 \
        sha512=a34e4dc803820f28123d1a35ca29f3c6f91149d9ac672043f44ee66e99a345a9d27ccf25ca9a96b50804a385df364c21b82476685bbc9a518eb101855d56d5c3 ;; \
      arm64) package=@openai/codex@0.169.0-linux-arm64 \
        sha512=359fc36905297109b19aa79eed9f6e0b5af3c371a149ba286b071a4ded4b379624f969629d42867535c98029514fff6881010433d4d6c58cefc4f7e3e46ff116 ;; \
      *) echo "Codex 0.169.0 is not pinned here for $(dpkg --print-architecture)" >&2; exit 1 ;; \
    esac; \
    file=$(npm pack --silent "$package"); \
    echo "$sha512  $file" | sha512sum -c -; \
    tar -xzf "$file"; \
    install -D -m 755 "$(find package -type f -name codex -perm -u+x | head -n 1)" /out/codex

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git ripgrep \
    && rm -rf /var/lib/apt/lists/*
COPY --from=package /out/ /usr/local/bin/
# Sandboxes choose a user of their own; whoever runs the image otherwise is nobody either.
USER 65534:65534
