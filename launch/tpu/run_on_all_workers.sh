#!/bin/bash
# Run a command on all machines of a TPU at once, as the processes of one job:
#
#     launch/tpu/run_on_all_workers.sh [--dry-run] NAME ZONE DIRECTORY -- COMMAND [ARGUMENT ...]
#     launch/tpu/run_on_all_workers.sh mine us-central2-b surgjax -- .venv/bin/python -m ...
#
# DIRECTORY is where this repository lies in the home of every machine; the command starts there
# (see worker.sh). One that still runs from before, as after a lost connection, is ended first
# (SIGTERM: it saves), so `-- true` ends it and does nothing else. The exit code is that of the
# first machine that failed; 255: the connection was lost.
set -euo pipefail

dry_run=
if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
if (($# < 5)) || [[ $4 != -- ]]; then
    echo "error: as in run_on_all_workers.sh [--dry-run] NAME ZONE DIRECTORY -- COMMAND" >&2
    exit 2
fi
there="cd $(printf %q "$3") || exit 2; launch/tpu/worker.sh$(printf ' %q' "${@:5}")"
command=(gcloud compute tpus tpu-vm ssh "$1" --zone="$2" --worker=all --command="$there")
if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
code=0
"${command[@]}" || code=$?
case $code in
    1) exit 255 ;; # gcloud's own, for lost connections too; worker.sh never leaves with it
    101) exit 1 ;;
    *) exit "$code" ;;
esac
