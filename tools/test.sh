#!/usr/bin/env bash
# Runs the named suites below tests/ in order and stops at the first that fails: `tools/test.sh unit contracts ...`.
#
#   networks     the parts of tests/integration that run whole networks against the clock
#   audit        the part of `make audit` that the other suites do not cover
#   e2e          left out, with a word, where there is no Chromium
#   A+B+C        B and then C run beside A, at the lowest priority
#   one TEST     the one test, file or folder, in this process: tools/test.sh one tests/unit/keeper/test_lease.py
#
# PYTEST_ARGS is passed on to each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/env.sh

NETWORKS=(tests/integration/keeper tests/integration/node)
# Two files at a time: these wait more than they compute.
TWO=(--numprocesses 2 --dist loadfile --no-loadscope-reorder)

# python_tests ARGS...: without Ape's plugin, which would start a chain for every run and wrap every test
python_tests() {
  # shellcheck disable=SC2086
  python -m pytest -p no:ape_test "$@" ${PYTEST_ARGS:-}
}

# real_parts NAME ARGS...: python_tests against real processes. When at most three tests failed, these run once more, alone and
# with new processes: a test that fails twice fails the suite; one that failed once is named, for it is a fault to mend
# (docs/adr/0082). With PYTEST_ARGS there is no second run.
real_parts() {
  local cache=.cache/pytest-$1 failed=0 count
  shift
  [[ -z ${PYTEST_ARGS:-} ]] || { python_tests "$@" && return || return $?; }
  python_tests "$@" -o cache_dir="$cache" --cache-clear && return || failed=$?
  count=$(grep -c '": true' "$cache/v/cache/lastfailed" || true)
  [[ $failed == 1 && $count -ge 1 && $count -le 3 ]] || return "$failed"
  grep '": true' "$cache/v/cache/lastfailed" | sed -E 's/^ *"(.*)": true,?$/== FLAKY if it passes now: \1/'
  python_tests "$@" -o cache_dir="$cache" --last-failed --last-failed-no-failures none --numprocesses 0
}

# one TEST: with the runner of its suite, without worker processes, and with only the set-up that its suite needs
one() {
  case $1 in
  tests/contracts* | tests/fork* | bench/contracts*) tools/setup.sh python node ;;
  tests/e2e*)
    tools/services.sh need chromium
    tools/setup.sh python node contracts assets
    ;;
  tests/integration*) tools/setup.sh python node contracts ;;
  *) tools/setup.sh python ;;
  esac
  # shellcheck disable=SC2086
  case $1 in
  tests/contracts*) ape test "$1" ${PYTEST_ARGS:-} ;;
  tests/fork*) ape test "$1" --network ethereum:local:test ${PYTEST_ARGS:-} ;;
  bench/contracts*)
    python -m pytest "$1" -p tests.support.services.ape_chain --network ethereum:local:foundry ${PYTEST_ARGS:-}
    ;;
  # these two plugins take longer to load than most unit tests to run, and no unit test uses them
  tests/unit*) python_tests "$1" -p no:schemathesis -p no:playwright ;;
  *) python_tests "$1" ;;
  esac
}

# suite NAME
suite() {
  local started=$SECONDS
  if [[ $1 == e2e ]] && ! tools/services.sh need chromium 2>/dev/null; then
    echo "== e2e: left out, there is no Chromium"
    return
  fi
  printf '== %s\n' "$1"
  case $1 in
  networks) real_parts "$1" "${NETWORKS[@]}" ;;
  integration) real_parts "$1" "${TWO[@]}" tests/integration "${NETWORKS[@]/#/--ignore=}" ;;
  audit) python -m tools.audit.run --profile test ;;
  e2e) real_parts "$1" "${TWO[@]}" tests/e2e ;;
  # shellcheck disable=SC2086
  contracts) ape test tests/contracts ${PYTEST_ARGS:-} ;;
  # shellcheck disable=SC2086
  fork) ape test tests/fork --network ethereum:local:test ${PYTEST_ARGS:-} ;; # starts its own chains
  *) python_tests "${TWO[@]}" "tests/$1" ;;
  esac
  printf '== %s: passed in %d s\n' "$1" $((SECONDS - started))
}

if [[ ${1:-} == one ]]; then
  one "${2:?name a test}"
  exit
fi

SUITES="unit integration networks contracts fork audit e2e"
[[ $# -gt 0 ]] || {
  echo "tools/test.sh: name a suite: $SUITES" >&2
  exit 2
}
for name in "$@"; do
  for part in ${name//+/ }; do
    [[ " $SUITES " == *" $part "* ]] || {
      echo "tools/test.sh: there is no suite $part; suites are $SUITES" >&2
      exit 2
    }
  done
done

for name in "$@"; do
  if [[ $name != *+* ]]; then
    suite "$name"
    continue
  fi
  mkdir -p .build/logs
  set -m # a process group of its own, so that nothing of it outlives this script
  IFS=+ read -ra beside <<<"${name#*+}"
  nice -n 19 tools/test.sh "${beside[@]}" >.build/logs/beside.log 2>&1 &
  set +m
  trap 'kill -- -$! 2>/dev/null || true' EXIT
  failed=0
  tools/test.sh "${name%%+*}" || failed=$?
  wait $! || failed=$?
  trap - EXIT
  cat .build/logs/beside.log
  [[ $failed == 0 ]] || exit "$failed"
done
