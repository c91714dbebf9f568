#!/usr/bin/env bash
# The system's own programs that the tests run against: PostgreSQL, Redis and Chromium.
#
#   tools/services.sh install          install Debian's packages of those that are missing; needs root
#   tools/services.sh missing NAME...  one line for each that is missing, saying what runs without it; always exit 0
#   tools/services.sh need NAME...     the same lines, and exit 1 when one is missing
#
# NAME is postgresql, redis or chromium. Nothing but `install` changes the system, and nothing but `make services` asks for that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ALL=(postgresql redis chromium)

there() {
  case $1 in
  postgresql) compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null ;;
  redis) command -v redis-server >/dev/null ;;
  chromium) command -v chromium >/dev/null ;;
  esac
}

without() {
  case $1 in
  postgresql) echo "PostgreSQL is not installed: the database tests run on SQLite alone" ;;
  redis) echo "Redis is not installed: the test of a keeper on it is skipped" ;;
  chromium) echo "Chromium is not installed: nothing that drives a browser can run" ;;
  esac
}

packages() {
  case $1 in
  postgresql) echo postgresql ;;
  redis) echo redis-server ;;
  chromium) echo chromium fonts-dejavu-core ;;
  esac
}

# missing NAME...: those that are not there, one a line
missing() {
  local name
  for name in "$@"; do there "$name" || echo "$name"; done
}

say_missing() {
  local name
  for name in $(missing "$@"); do
    printf '%s; "make services" as root installs it\n' "$(without "$name")" >&2
  done
}

install_missing() {
  local wanted log=.build/logs/services.log name
  wanted=$(missing "${ALL[@]}")
  [[ -n $wanted ]] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "services: install ${wanted//$'\n'/, } with this system's package manager" >&2
    return 1
  fi
  # shellcheck disable=SC2046
  set -- $(for name in $wanted; do packages "$name"; done)
  if [[ $EUID -ne 0 ]]; then
    echo "services: run this as root: apt-get install --no-install-recommends $*" >&2
    return 1
  fi
  mkdir -p .build/logs
  printf 'services: installing %s\n' "$*"
  # The tests start their servers themselves: the packages must start none, and PostgreSQL's must create no cluster.
  if [[ " $* " == *" postgresql "* ]]; then
    mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/parallelix.conf
  fi
  if ! { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends -o Acquire::Retries=3 "$@"; } >"$log" 2>&1 </dev/null; then
    echo "services: apt-get failed: check the network and run this again (details in $log)" >&2
    return 1
  fi
}

action=${1:-}
[[ $# -eq 0 ]] || shift
for name in "$@"; do
  [[ " ${ALL[*]} " == *" $name "* ]] || {
    printf 'services: no service is called %s: one of %s\n' "$name" "${ALL[*]}" >&2
    exit 2
  }
done
case $action in
install) install_missing ;;
missing) say_missing "${@:-${ALL[@]}}" ;;
need)
  say_missing "$@"
  [[ -z $(missing "$@") ]]
  ;;
*)
  sed -n '2,/^set /{/^#/p}' "$0" >&2
  exit 2
  ;;
esac
