#!/usr/bin/env bash
# Brings what the tests need and says what it did, one line each. Safe to repeat: what is there is left alone.
#
#   tests/bring-up.sh          bring everything up
#   tests/bring-up.sh --stop   stop the Docker engine, if it was started by this script
#
# On a Debian machine, as root, it installs what is missing. Elsewhere it says what is missing and how to get it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
state=$target/bring-up
agents=$target/test-agents
github=$target/test-github
mkdir -p "$state" "$agents" "$github"

# Pinned: what the parsers of agent output were written against.
claude_version=2.1.197
codex_version=0.169.0
# Pinned: what GitHub publishes about its API and its deliveries.
openapi_version=23.0.2
examples_version=7.6.1
busybox_image=onramp-test/busybox:1
agents_image=onramp-test/agents:1
debian_image=onramp-test/debian:1

say() { printf 'bring-up: %s\n' "$*"; }
give_up() { printf 'bring-up: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
engine_answers() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# debian PACKAGE...: installs from Debian's archive, or says what to do.
debian() {
  if [ "$(id -u)" != 0 ] || ! have apt-get; then
    give_up "missing: $*. Install with your package manager, for instance: sudo apt-get install $*"
  fi
  say "installing $*"
  if [ ! -e "$state/apt-updated" ]; then
    apt-get update -qq >>"$state/apt.log" 2>&1 || give_up "apt-get update failed, see $state/apt.log"
    touch "$state/apt-updated"
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >>"$state/apt.log" 2>&1 ||
    give_up "apt-get install $* failed, see $state/apt.log"
}

bring_programs() {
  local missing=()
  have git || missing+=(git)
  have cc || missing+=(gcc libc6-dev)
  # Signatures of commits are checked by what people check them with.
  have ssh-keygen || missing+=(openssh-client)
  have curl || missing+=(curl ca-certificates)
  have bash || missing+=(bash)
  # A repository that is set up for the first time is checked with it.
  have make || missing+=(make)
  # Newer releases of Debian have the client in a package of its own.
  if ! have dockerd && ! engine_answers; then missing+=(docker.io); fi
  # An engine on a kernel with AppArmor starts no container without its parser.
  if [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] && ! [ -x /sbin/apparmor_parser ]; then
    missing+=(apparmor)
  fi
  # The smallest image needs a shell that brings all it needs along.
  if ! busybox_is_static; then missing+=(busybox-static); fi
  # Faults at single system calls are injected with it.
  have strace || missing+=(strace)
  have npm || missing+=(nodejs npm)
  have mmdebstrap || missing+=(mmdebstrap)
  [ ${#missing[@]} = 0 ] || debian "${missing[@]}"
  have docker || debian docker-cli
  [ -x "$(git --exec-path)/git-http-backend" ] || give_up "this git has no git-http-backend; the tests serve repositories with it"
  say "programs are there: git $(git --version | cut -d' ' -f3), $(busybox 2>&1 | sed -n '1s/ (.*//p'), node $(node --version)"
}

busybox_is_static() { have busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1; }

bring_engine() {
  if engine_answers; then
    say "Docker engine $(docker version --format '{{.Server.Version}}') answers"
    return
  fi
  [ "$(id -u)" = 0 ] || give_up "no Docker engine answers. Start one (sudo systemctl start docker), and join its group"
  # An engine that was killed leaves process ids behind, which may belong to others by now, and state that it may
  # choke on. The second try takes nothing from an earlier engine.
  forget_dead /var/run/docker.pid dockerd
  forget_dead /var/run/docker/containerd/containerd.pid containerd
  start_engine "$state/dockerd.log" ||
    start_engine "$state/dockerd.fresh.log" --data-root "$state/engine" --exec-root /run/onramp-test-engine \
      --pidfile /run/onramp-test-engine.pid ||
    give_up "dockerd does not answer; the ends of its logs stand above"
  say "Docker engine $(docker version --format '{{.Server.Version}}') answers"
}

# forget_dead FILE PROGRAM: removes a file that holds the process id of a program which is no more.
forget_dead() {
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null && return 0
  say "removing $1, left by $2 $pid, which is gone"
  rm -f "$1"
}

# start_engine LOG OPTION...: starts dockerd and waits until it answers.
start_engine() {
  local log=$1 pid deadline=$((SECONDS + 60))
  shift
  say "starting dockerd${*:+ $*}, log in $log"
  rm -f "$state/dockerd.pid"
  # Detached, with every stream of its own: whoever called this must not wait for the engine to end.
  # A file lock or pipe of the caller must not live on in it either.
  setsid bash -c 'for fd in /proc/$$/fd/*; do n=${fd##*/}; [ "$n" -le 2 ] || eval "exec $n>&-"; done
    echo $$ >"$1"; shift; exec dockerd "$@"' bring-up "$state/dockerd.pid" "$@" </dev/null >"$log" 2>&1 &
  disown
  until engine_answers; do
    pid=$(cat "$state/dockerd.pid" 2>/dev/null || true)
    if [ $SECONDS -ge $deadline ] || { [ -n "$pid" ] && ! [ -e "/proc/$pid" ]; }; then
      say "dockerd does not answer after $((SECONDS - deadline + 60)) s; the end of its log:" >&2
      tail -n 20 "$log" | sed 's/^/  dockerd: /' >&2
      stop_engine
      return 1
    fi
    sleep 0.2
  done
}

stop_engine() {
  local pid
  pid=$(cat "$state/dockerd.pid" 2>/dev/null) || { say "no engine of this script runs"; return; }
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
    kill "$pid"
    local deadline=$((SECONDS + 60))
    while [ -e "/proc/$pid" ]; do
      [ $SECONDS -lt $deadline ] || { kill -9 "$pid"; break; }
      sleep 0.2
    done
    say "stopped the Docker engine"
  fi
  rm -f "$state/dockerd.pid"
}

# busybox_root DIR: a root file system of one static program under all of its names.
busybox_root() {
  mkdir -p "$1"/{bin,dev,etc,home,proc,sys,tmp,usr/bin,var/tmp,workspace}
  chmod 1777 "$1/tmp" "$1/var/tmp"
  cp "$(command -v busybox)" "$1/bin/busybox"
  local applet
  for applet in $("$1/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
  done
  ln -s ../../bin/busybox "$1/usr/bin/env"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$1/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
}

# with_libraries PROGRAM DIR: copies a program of this machine into DIR, and the shared libraries that it names.
with_libraries() {
  local library
  for library in "$1" $(ldd "$1" | grep -o '/[^ ]*'); do
    mkdir -p "$2$(dirname "$library")"
    cp -L "$library" "$2$library"
  done
}

import_image() {
  tar -C "$2" -c . | docker import "${@:3}" - "$1" >/dev/null
  say "imported image $1"
}

bring_images() {
  if docker image inspect "$busybox_image" >/dev/null 2>&1; then
    say "image $busybox_image is there"
  else
    local fresh
    fresh=$(mktemp -d)
    busybox_root "$fresh"
    import_image "$busybox_image" "$fresh"
    rm -rf "$fresh"
  fi
  # The real agents, with a shell that they accept and the C library that they are linked to.
  if docker image inspect "$agents_image" >/dev/null 2>&1; then
    say "image $agents_image is there"
  else
    local fresh
    fresh=$(mktemp -d)
    busybox_root "$fresh"
    with_libraries "$(command -v bash)" "$fresh"
    rm -f "$fresh/bin/bash" && cp -L "$(command -v bash)" "$fresh/bin/bash"
    with_libraries "$agents/bin/claude" "$fresh"
    mv "$fresh$agents/bin/claude" "$fresh/usr/bin/claude"
    cp -L "$agents/bin/codex" "$fresh/usr/bin/codex"
    import_image "$agents_image" "$fresh"
    rm -rf "$fresh"
  fi
}

# A small Debian with the npm of this machine: what the Dockerfiles of agents are built on, without pulling anything.
bring_debian() {
  if docker image inspect "$debian_image" >/dev/null 2>&1; then
    say "image $debian_image is there"
    return
  fi
  local fresh release
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  say "making a small Debian ($release)"
  fresh=$(mktemp -d)
  mmdebstrap --quiet --variant=apt --include=ca-certificates "$release" "$fresh/root" >"$state/debian.log" 2>&1 ||
    { tail -n 20 "$state/debian.log" >&2; give_up "mmdebstrap failed, see $state/debian.log"; }
  with_npm "$fresh/root"
  # The certificates that this machine trusts, for builds behind a proxy that has its own.
  cp -L /etc/ssl/certs/ca-certificates.crt "$fresh/root/etc/ssl/certs/ca-certificates.crt"
  import_image "$debian_image" "$fresh/root" -c 'ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt'
  rm -rf "$fresh"
}

# with_npm DIR: copies node, npm and all modules that come with them.
with_npm() {
  local path
  cp -L "$(command -v node)" "$1/usr/bin/node"
  # Its own libraries stay: they are this system's too, and links among them would lead out of DIR.
  for path in $(ldd "$(command -v node)" | grep -o '/[^ ]*'); do
    [ -e "$1$path" ] || [ -L "$1$path" ] || { mkdir -p "$1$(dirname "$path")" && cp -L "$path" "$1$path"; }
  done
  for path in /usr/lib/node_modules/npm /usr/share/nodejs /usr/share/node_modules /usr/etc/npmrc; do
    [ -e "$path" ] || continue
    mkdir -p "$1$(dirname "$path")"
    cp -a "$path" "$1$(dirname "$path")/"
  done
  ln -sf "$(realpath "$(command -v npm)")" "$1/usr/bin/npm"
}

bring_agents() {
  local arch
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) give_up "the real agents are not built for $(uname -m)" ;;
  esac
  local stamp="claude $claude_version, codex $codex_version ($arch)"
  if [ "$(cat "$agents/stamp" 2>/dev/null)" = "$stamp" ]; then
    say "agents are there: $stamp"
    return
  fi
  say "installing agents: $stamp"
  # The packages of this platform hold the programs themselves, so no install script needs to run.
  rm -rf "$agents/node_modules" "$agents/bin" "$agents/stamp"
  npm install --prefix "$agents" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error \
    "@anthropic-ai/claude-code-linux-$arch@$claude_version" \
    "codex@npm:@openai/codex@$codex_version-linux-$arch" >"$state/npm.log" 2>&1 </dev/null ||
    { tail -n 20 "$state/npm.log" >&2; give_up "npm could not install the agents, see $state/npm.log"; }
  mkdir -p "$agents/bin"
  link_agent claude "$agents/node_modules/@anthropic-ai/claude-code-linux-$arch/claude"
  link_agent codex "$(find "$agents/node_modules/codex" -type f -name codex -perm -u+x | head -n 1)"
  docker image rm "$agents_image" >/dev/null 2>&1 || true
  echo "$stamp" >"$agents/stamp"
}

link_agent() {
  [ -x "$2" ] || give_up "the package of $1 holds no program at ${2:-its usual place}"
  ln "$2" "$agents/bin/$1" 2>/dev/null || cp "$2" "$agents/bin/$1"
}

# What a request to GitHub may look like, and what its deliveries look like, as GitHub publishes both.
bring_github() {
  local stamp="@octokit/openapi $openapi_version, @octokit/webhooks-examples $examples_version"
  if [ "$(cat "$github/stamp" 2>/dev/null)" = "$stamp $(cksum <"$root/tests/fixtures/prune_openapi.mjs")" ]; then
    say "GitHub's descriptions are there: $stamp"
    return
  fi
  say "fetching GitHub's descriptions: $stamp"
  local fresh
  fresh=$(mktemp -d)
  # Only single files are taken out of the packages; nothing of them is run.
  npm pack --silent --pack-destination "$fresh" "@octokit/openapi@$openapi_version" \
    "@octokit/webhooks-examples@$examples_version" >"$state/npm.log" 2>&1 </dev/null ||
    { tail -n 20 "$state/npm.log" >&2; give_up "npm could not fetch GitHub's descriptions, see $state/npm.log"; }
  tar -xzf "$fresh/octokit-openapi-$openapi_version.tgz" -C "$fresh" package/generated/api.github.com.json
  tar -xzf "$fresh/octokit-webhooks-examples-$examples_version.tgz" -C "$fresh" package/api.github.com/index.json
  node "$root/tests/fixtures/prune_openapi.mjs" "$fresh/package/generated/api.github.com.json" "$github/requests.json"
  mv "$fresh/package/api.github.com/index.json" "$github/deliveries.json"
  rm -rf "$fresh"
  echo "$stamp $(cksum <"$root/tests/fixtures/prune_openapi.mjs")" >"$github/stamp"
}

case ${1:-} in
  --stop) stop_engine; exit ;;
  '') ;;
  *) give_up "usage: tests/bring-up.sh [--stop]" ;;
esac
# One at a time: two would fetch and import the same things.
exec 9>"$state/lock"
flock 9
bring_programs
bring_engine
bring_agents
bring_github
bring_images
bring_debian
say "ready"
