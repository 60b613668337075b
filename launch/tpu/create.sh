#!/bin/bash
# Ask for TPU machines as a queued resource, unless it was done, and wait until they are there:
#
#     launch/tpu/create.sh [--dry-run] NAME ZONE TYPE VERSION [FLAG ...]
#     launch/tpu/create.sh mine us-central2-b v4-32 tpu-ubuntu2204-base --spot
#
# One slice. FLAGs are gcloud's (--spot, --reserved, --project=...). What is left of machines that
# were taken away is deleted first. Exit code 75 where these are taken before they are ready, or
# there is no capacity: ask again later.
set -euo pipefail

dry_run=
if [[ ${1:-} == --dry-run ]]; then
    dry_run=1
    shift
fi
if (($# < 4)); then
    echo "error: as in launch/tpu/create.sh [--dry-run] NAME ZONE TYPE VERSION [FLAG ...]" >&2
    exit 2
fi
name=$1 zone=$2 type=$3 version=$4
resource=(gcloud compute tpus queued-resources)
create=("${resource[@]}" create "$name" --node-id="$name" --zone="$zone"
    --accelerator-type="$type" --runtime-version="$version" "${@:5}")
if [[ -n $dry_run ]]; then
    printf '%q ' "${create[@]}"
    echo
    exit 0
fi

state_now() {
    "${resource[@]}" describe "$name" --zone="$zone" --format='value(state.state)' 2>/dev/null ||
        echo NONE
}

state=$(state_now)
case $state in
    FAILED | SUSPENDING | SUSPENDED | DELETING)
        "${resource[@]}" delete "$name" --zone="$zone" --force --quiet
        state=NONE
        ;;
esac
[[ $state != NONE ]] || "${create[@]}"
while true; do
    state=$(state_now)
    echo "$(date -u +%FT%TZ) $name: $state"
    case $state in
        ACTIVE) exit 0 ;;
        FAILED | SUSPENDING | SUSPENDED | DELETING | NONE) exit 75 ;;
    esac
    sleep "${SURGJAX_POLL_S:-30}"
done
