#!/bin/sh
# A Docker engine for this machine: uses the one that runs, else installs and starts one (Debian).
# Also makes the base image of deploy/Dockerfile where no registry can be reached.
set -eu

BASE_IMAGE=${PENSTOCK_BASE_IMAGE:-python:3.11-slim-bookworm}
# Empty: debootstrap's own default.
DEBIAN_MIRROR=${PENSTOCK_DEBIAN_MIRROR:-}
ENGINE_LOG=${PENSTOCK_ENGINE_LOG:-/var/log/penstock-dockerd.log}
ENGINE_PID=/run/penstock-dockerd.pid
# What the base image needs beyond a minimal Debian to match the official Python image.
BASE_PACKAGES=python3,python3-venv,python3-pip,ca-certificates,tini
START_TIMEOUT_S=60
PULL_TIMEOUT_S=600

usage() {
    cat <<TEXT
usage: deploy/engine.sh [COMMAND]

  (none)           start, then base
  start            use the running Docker engine, or install (apt) and start one
  base             make sure the base image $BASE_IMAGE is there: found, pulled or made
  compose ARG...   run docker compose (v2) or docker-compose (1.29), whichever is installed
  stop             stop the engine if this script started it

examples:
  deploy/engine.sh
  deploy/engine.sh compose -f deploy/docker-compose.yml up --build -d --scale sampler=2
  deploy/engine.sh compose -f deploy/docker-compose.yml down
TEXT
}

say() { echo "engine: $*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        die "'$*' needs root: run this as root, or install sudo"
    fi
}

engine_answers() { docker info >/dev/null 2>&1; }

# Waits until the engine answers; gives up early when its process has gone.
wait_for_engine() {
    waited_s=0
    until engine_answers; do
        [ "$waited_s" -lt "$START_TIMEOUT_S" ] || return 1
        if [ -n "${1:-}" ] && ! as_root kill -0 "$1" 2>/dev/null; then return 1; fi
        sleep 1
        waited_s=$((waited_s + 1))
    done
}

install_packages() {
    command -v apt-get >/dev/null 2>&1 ||
        die "cannot install $*: no apt-get here; install and start a Docker engine yourself"
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

have_compose() { docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null 2>&1; }

start() {
    if command -v docker >/dev/null 2>&1 && engine_answers; then
        have_compose || install_packages docker-compose
        say "using the running engine, version $(docker version --format '{{.Server.Version}}')"
        return
    fi
    if [ -S /run/docker.sock ] && command -v docker >/dev/null 2>&1 &&
        as_root docker info >/dev/null 2>&1; then
        die "an engine runs, but $(id -un) may not use it: run this as root or join group docker"
    fi
    [ -z "${DOCKER_HOST:-}" ] || die "DOCKER_HOST=$DOCKER_HOST does not answer: start it or unset it"
    if ! command -v dockerd >/dev/null 2>&1; then
        install_packages docker.io docker-compose ca-certificates
    elif ! have_compose; then
        install_packages docker-compose
    fi
    if [ -d /run/systemd/system ]; then
        as_root systemctl start docker
        wait_for_engine || die "the engine does not answer: see 'journalctl -u docker'"
        return
    fi
    if ! engine_answers; then
        say "starting dockerd, log in $ENGINE_LOG"
        as_root sh -c "nohup setsid dockerd >'$ENGINE_LOG' 2>&1 </dev/null & echo \$! >'$ENGINE_PID'"
        if ! wait_for_engine "$(cat "$ENGINE_PID")"; then
            as_root tail -n 20 "$ENGINE_LOG" >&2
            as_root rm -f "$ENGINE_PID"
            die "dockerd did not come up: the last lines of $ENGINE_LOG are above"
        fi
    fi
    say "engine $(docker version --format '{{.Server.Version}}') is up"
}

stop() {
    [ -f "$ENGINE_PID" ] || die "no engine was started by this script: nothing to stop"
    pid=$(cat "$ENGINE_PID")
    if as_root kill "$pid" 2>/dev/null; then
        while as_root kill -0 "$pid" 2>/dev/null; do sleep 1; done
        say "engine stopped; images and volumes stay"
    else
        say "the engine of process $pid had gone already"
    fi
    as_root rm -f "$ENGINE_PID"
}

base() {
    if docker image inspect "$BASE_IMAGE" >/dev/null 2>&1; then
        say "base image $BASE_IMAGE is there"
    elif timeout "$PULL_TIMEOUT_S" docker pull -q "$BASE_IMAGE" >/dev/null 2>&1; then
        say "pulled $BASE_IMAGE"
    else
        say "$BASE_IMAGE cannot be pulled: making it from Debian packages (2-3 minutes)"
        make_base
    fi
}

make_base() {
    command -v debootstrap >/dev/null 2>&1 || install_packages debootstrap ca-certificates
    # Not under /tmp: it may be small, or mounted without devices and executables.
    root=$(as_root mktemp -d /var/lib/penstock-base.XXXXXX)
    # shellcheck disable=SC2064 # the folder of now is meant
    trap "as_root rm -rf '$root' '$root.log'" EXIT
    if ! as_root sh -c "debootstrap --variant=minbase --include='$BASE_PACKAGES' \
        bookworm '$root' $DEBIAN_MIRROR >'$root.log' 2>&1"; then
        as_root tail -n 20 "$root.log" >&2
        die "debootstrap failed: the end of its log is above (mirror: ${DEBIAN_MIRROR:-its default})"
    fi
    # Builds trust what this machine trusts, so that they work behind the same gateway.
    as_root cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    as_root rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    as_root tar -C "$root" -c . | docker import \
        --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' \
        --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' \
        --change 'LABEL org.penstock.base=debootstrap' \
        --change 'CMD ["python3"]' \
        --message 'Debian bookworm with Python, made by deploy/engine.sh' \
        - "$BASE_IMAGE" >/dev/null
    say "made $BASE_IMAGE"
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        exec docker compose "$@"
    fi
    command -v docker-compose >/dev/null 2>&1 || die "no docker compose here: run $0 start"
    exec docker-compose "$@"
}

case "${1:-}" in
"") start; base ;;
start | stop | base) "$1" ;;
compose) shift; compose "$@" ;;
-h | --help) usage ;;
*) usage >&2; exit 2 ;;
esac
