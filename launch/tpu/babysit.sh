#!/bin/bash
# Keep a command running on a TPU that may be taken away at any time:
#
#     launch/tpu/babysit.sh [--dry-run] NAME ZONE TYPE VERSION DIRECTORY SETUP -- COMMAND [ARG ...]
#
# Asks for the TPU (create.sh) where it is missing or was taken, runs SETUP once in the home of new
# machines (a line of shell: 'git clone URL surgjax && cd surgjax && ...'), then COMMAND on all of
# them (run_on_all_workers.sh). Ended with 75, by a signal, or without connection, it begins again
# (supervisor.py); 0, 1, 2 and 130 are final. RUN has to outlive the machines: SETUP mounts a
# network file system. SURGJAX_TPU_FLAGS are flags for gcloud, as --spot.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

mode=
case ${1:-} in
    --dry-run | --once)
        mode=$1
        shift
        ;;
esac
if (($# < 8)) || [[ $7 != -- ]]; then
    echo "error: as in launch/tpu/babysit.sh NAME ZONE TYPE VERSION DIRECTORY SETUP -- COMMAND" >&2
    exit 2
fi
if [[ -z $mode ]]; then
    exec python3 "$here/../supervisor.py" --delay "${SURGJAX_POLL_S:-30}" -- \
        "${BASH_SOURCE[0]}" --once "$@"
fi
name=$1 zone=$2 type=$3 version=$4 directory=$5 setup=$6
shift 7
read -r -a flags <<<"${SURGJAX_TPU_FLAGS:-}"
create=("$here/create.sh" "$name" "$zone" "$type" "$version" "${flags[@]}")
prepare=(gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all
    --command="test -e .surgjax-setup || { $setup && touch ~/.surgjax-setup; }")
workers=("$here/run_on_all_workers.sh" "$name" "$zone" "$directory" -- "$@")

if [[ $mode == --dry-run ]]; then
    "${create[0]}" --dry-run "${create[@]:1}"
    printf '%q ' "${prepare[@]}"
    echo
    "${workers[0]}" --dry-run "${workers[@]:1}"
    exit 0
fi
"${create[@]}"
"${prepare[@]}" || exit 75 # by a lost connection, or what it downloads from is away
"${workers[@]}"
