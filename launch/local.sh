#!/bin/bash
# Run a command as one process on this machine, with all its devices or N fake CPU devices:
#
#     launch/local.sh [--devices N] [--dry-run] -- python -m surgjax.main --config=... --workdir=RUN
#
# Switches are variables, see env.sh: SURGJAX_SHARED_GPU=1 launch/local.sh -- ...
set -euo pipefail

usage() {
    echo "error: $1; as in launch/local.sh [--devices N] [--dry-run] -- COMMAND [ARGUMENT ...]" >&2
    exit 2
}

devices=0
SURGJAX_DRY_RUN=
while (($#)); do
    case $1 in
        --devices)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage "--devices wants a number"
            devices=$2
            shift 2
            ;;
        --dry-run)
            SURGJAX_DRY_RUN=1
            shift
            ;;
        --)
            shift
            break
            ;;
        *) usage "$1 is not known" ;;
    esac
done
(($#)) || usage "no command"

if ((devices)); then
    export JAX_PLATFORMS=cpu
    flag=--xla_force_host_platform_device_count
    others=()
    for given in ${XLA_FLAGS:-}; do
        [[ $given == "$flag="* ]] || others+=("$given")
    done
    XLA_FLAGS="${others[*]:+${others[*]} }$flag=$devices"
    export XLA_FLAGS
    # Devices wait for each other: with fewer threads than devices they can wait for ever.
    cores=$(getconf _NPROCESSORS_ONLN)
    export NPROC="${NPROC:-$((2 * devices > cores ? 2 * devices : cores))}"
fi
# shellcheck source=launch/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
if ((devices)); then
    surgjax_environment+=("JAX_PLATFORMS=cpu" "XLA_FLAGS=$XLA_FLAGS" "NPROC=$NPROC")
fi
if [[ -n $SURGJAX_DRY_RUN ]]; then
    show_command "$@"
else
    exec "$@"
fi
