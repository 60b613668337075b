#!/bin/bash
# On a machine of a TPU: run a command as one process of the job. run_on_all_workers.sh starts it.
#
# The machines know of each other from Google's metadata, of which the environment of a login has
# nothing; surgjax.multihost reads the variables set here. The exit code is the command's, or 101
# for 1, which gcloud uses itself.
set -euo pipefail

metadata() {
    local host=${GCE_METADATA_IP:-metadata.google.internal}
    curl --silent --fail --noproxy '*' --header Metadata-Flavor:Google \
        "http://$host/computeMetadata/v1/instance/attributes/$1"
}
JAX_PROCESS_ID=$(metadata agent-worker-number)
endpoints=$(metadata worker-network-endpoints)
IFS=, read -r -a machines <<<"$endpoints"
export JAX_PROCESS_ID JAX_NUM_PROCESSES=${#machines[@]}
export JAX_COORDINATOR_ADDRESS="${machines[0]##*:}:8476" # each an address, or name:number:address

note=$HOME/.surgjax-command # the process group of the command of before
before=$(cat "$note" 2>/dev/null || true)
if [[ -n $before ]] && grep -qz '^SURGJAX_WORKER=1$' "/proc/$before/environ" 2>/dev/null; then
    echo "ending the command of before" >&2
    kill -TERM -- "-$before" || true
    for ((i = 0; i < 1200; i++)); do # two minutes, to save
        kill -0 -- "-$before" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$before" 2>/dev/null || true
fi
code=0
# shellcheck disable=SC2016 # the inner shell's own
SURGJAX_WORKER=1 setsid --wait bash -c 'echo $$ >"$0" && exec "$@"' "$note" "$@" || code=$?
exit "$((code == 1 ? 101 : code))"
