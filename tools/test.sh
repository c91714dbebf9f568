#!/usr/bin/env bash
# Runs the named suites below tests/ in order and stops at the first that fails: `tools/test.sh unit contracts ...`;
# `networks` are the parts of tests/integration that run whole networks against the clock, `audit` is the part of
# `make audit` that the other suites do not cover. In `A+B+C`, B and then C run beside A, at the lowest priority.
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

# suite NAME
suite() {
  local started=$SECONDS
  printf '== %s\n' "$1"
  case $1 in
  networks) python_tests "${NETWORKS[@]}" ;;
  integration) python_tests "${TWO[@]}" tests/integration "${NETWORKS[@]/#/--ignore=}" ;;
  audit) python tests/audit/run.py --profile test ;;
  # shellcheck disable=SC2086
  contracts | fork) ape test "tests/$1" ${PYTEST_ARGS:-} ;;
  *) python_tests "${TWO[@]}" "tests/$1" ;;
  esac
  printf '== %s: passed in %d s\n' "$1" $((SECONDS - started))
}

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
