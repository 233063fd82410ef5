#!/usr/bin/env bash
# The road as a plain script: what one would write without Onramp. No queue, no policy, no limits beyond these, no
# evidence; the same image, agent and check, the same repository and forge. Prints `stage microseconds`, one a line.
#
# Wants in the environment: GIT_URL, API_URL, REPO, TOKEN, IMAGE, AGENT, CHECK, BRANCH.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export GIT_CONFIG_GLOBAL=/dev/null GIT_TERMINAL_PROMPT=0
auth="http.extraHeader=Authorization: Basic $(printf 'x-access-token:%s' "$TOKEN" | base64 -w0)"
started=$(date +%s%N)
stage() {
  local now
  now=$(date +%s%N)
  echo "$1 $(((now - started) / 1000))"
  started=$(date +%s%N)
}
in_sandbox() {
  docker run --rm --network none --cap-drop ALL --security-opt no-new-privileges --pids-limit 1024 --memory 4g \
    --cpus 2 -v "$1:/workspace" -w /workspace "$IMAGE" /bin/sh -c "$2"
}

git -c http.proxy= -c "$auth" clone -q --depth 1 "$GIT_URL/$REPO.git" agent
stage checkout
in_sandbox "$dir/agent" "$AGENT" >agent.log 2>&1
stage agent
git -C agent add -A
git -C agent diff --cached --binary HEAD >change.patch
stage extract
git clone -q agent verify 2>/dev/null
git -C verify apply --index ../change.patch
in_sandbox "$dir/verify" "$CHECK" >check.log 2>&1
stage verify
git -C verify -c user.name=Script -c user.email=script@example.org commit -q -m "Change"
git -C verify -c http.proxy= -c "$auth" push -q "$GIT_URL/$REPO.git" "HEAD:refs/heads/$BRANCH"
curl -fsS --noproxy '*' -H "Authorization: Bearer $TOKEN" "$API_URL/repos/$REPO/pulls" -o pull.json \
  -d "{\"title\":\"Change\",\"head\":\"$BRANCH\",\"base\":\"main\",\"body\":\"Fixes\"}"
stage publish
