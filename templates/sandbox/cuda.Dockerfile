# An agent beside CUDA, for agents and checks that are lent a GPU. AGENT is the image of any agent that is one program.
#
#   onramp agent image cuda | docker build --build-arg AGENT=onramp/claude:2.1.197 -t onramp/claude-cuda:2.1.197 -
#
# BASE holds what programs for CUDA need to run; with `devel` in place of `base` also what is needed to compile them. The
# driver comes with the GPU that is lent and is in no image.
ARG AGENT=onramp/claude:2.1.197
ARG BASE=nvidia/cuda:12.6.3-base-ubuntu24.04

FROM ${AGENT} AS agent

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git python3 ripgrep \
    && rm -rf /var/lib/apt/lists/*
COPY --from=agent /usr/local/bin/ /usr/local/bin/
# Sandboxes choose a user of their own; whoever runs the image otherwise is nobody either.
USER 65534:65534
