# Aider on Debian's Python with git, without which it does not start.
#
#   onramp agent image aider | docker build -t onramp/aider:0.86.2 -
#
# Tools of your own: give BASE an image that has them, Python 3.10 to 3.12 with pip, and apt-get. The version is the one that
# the reader of the agent's output was tried with.
ARG BASE=python:3.12.10-slim-bookworm

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir --no-compile aider-chat==0.86.2
# Sandboxes choose a user of their own; whoever runs the image otherwise is nobody either.
USER 65534:65534
