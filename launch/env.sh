# shellcheck shell=bash
# What JAX, XLA and NCCL read from the environment. The launchers here source it; so can yours:
#
#     . launch/env.sh
#
# Nothing that is already set is changed. Two switches, on when set to 1 before:
#
#     SURGJAX_SHARED_GPU      several jobs on one GPU: memory is taken as it is needed
#     SURGJAX_DETERMINISTIC   the same bits every time on GPUs, more slowly
#
# What was set is in the array surgjax_environment; show_command prints it with a command.
# (No `set -e` here: it would stay on in a shell that sources this by hand.)

surgjax_environment=()

set_default() { # NAME VALUE
    if [[ -z ${!1+set} ]]; then
        export "$1=$2"
        surgjax_environment+=("$1=$2")
    fi
}

show_command() { # COMMAND [ARGUMENT ...]
    printf 'env'
    printf ' %q' "${surgjax_environment[@]}" "$@"
    printf '\n'
}

raise_soft_limit() { # LETTER WANTED, never above the hard limit
    local soft hard wanted=$2
    soft=$(ulimit -S "-$1")
    hard=$(ulimit -H "-$1")
    if [[ $hard != unlimited ]] && { [[ $wanted == unlimited ]] || ((hard < wanted)); }; then
        wanted=$hard
    fi
    if [[ $soft != unlimited ]] && { [[ $wanted == unlimited ]] || ((soft < wanted)); }; then
        ulimit -S "-$1" "$wanted" || true
    fi
}

# Compiled programs are trusted code: a folder of the user's own, the one of surgjax/main.py.
compiled_programs() {
    local folder="${XDG_CACHE_HOME:-$HOME/.cache}/surgjax/compiled"
    (umask 077 && mkdir -p "$folder" 2>/dev/null) || return 0 # a read-only home: always anew
    if [[ -O $folder ]] && chmod 0700 "$folder"; then
        set_default JAX_COMPILATION_CACHE_DIR "$folder"
    fi
}

# The first GPU's compute capability, as 9.0; empty without a GPU or where it is not to be used.
gpu() {
    case ${JAX_PLATFORMS:-} in
        cpu | tpu) return 0 ;;
    esac
    nvidia-smi --id=0 --query-gpu=compute_cap --format=csv,noheader 2>/dev/null || true
}

# Flags that this jaxlib knows, beside the user's own. An unknown one ends every program at once.
xla_flags() { # FLAG ...
    local flag wanted=() known name
    for flag in "$@"; do
        name=${flag%%=*}
        [[ " ${XLA_FLAGS:-} " == *" $name"[=\ ]* ]] || wanted+=("$flag")
    done
    if ! command -v python >/dev/null; then
        echo "error: no python on PATH; activate the environment, as . .venv/bin/activate" >&2
        return 2
    fi
    known=$(python "$(dirname -- "${BASH_SOURCE[0]}")/xla_flags.py" \
        ${SURGJAX_DRY_RUN:+--remembered} --given="${XLA_FLAGS:-}" -- "${wanted[@]}") || return
    if [[ -n $known ]]; then
        export XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }$known"
        surgjax_environment+=("XLA_FLAGS=$XLA_FLAGS")
    fi
}

prepare_environment() {
    local capability flags=()
    raise_soft_limit n 65536     # files: every shard and every worker holds some
    raise_soft_limit l unlimited # locked memory, which NCCL over InfiniBand needs
    compiled_programs
    set_default TF_CPP_MIN_LOG_LEVEL 1
    set_default PYTHONUNBUFFERED 1
    set_default PYTHONFAULTHANDLER 1 # a stack when native code crashes
    if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
        # Else every process of a node starts as many threads as the node has cores.
        set_default OMP_NUM_THREADS "$SLURM_CPUS_PER_TASK"
    fi
    capability=$(gpu)
    if [[ -n $capability ]]; then
        # Latency hiding, pipelined collectives: what used to be a list of flags.
        set_default JAX_OPTIMIZATION_LEVEL O1
        if [[ ${SURGJAX_SHARED_GPU:-0} == 1 ]]; then
            set_default XLA_PYTHON_CLIENT_PREALLOCATE false
        else
            set_default XLA_PYTHON_CLIENT_MEM_FRACTION 0.9
        fi
        [[ $capability != 9.* ]] || set_default CUDA_DEVICE_MAX_CONNECTIONS 1 # Hopper
        set_default NCCL_DEBUG WARN
        # Gradients of a block of ViT-L are 50 MB in f32: collectives at least as large.
        flags+=(
            --xla_gpu_all_reduce_combine_threshold_bytes=134217728
            --xla_gpu_all_gather_combine_threshold_bytes=134217728
            --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728
        )
        if [[ ${SURGJAX_DETERMINISTIC:-0} == 1 ]]; then
            flags+=(--xla_gpu_deterministic_ops=true)
        fi
    fi
    if [[ -n ${flags[*]:-}${XLA_FLAGS:-} ]]; then
        xla_flags "${flags[@]}"
    fi
}

prepare_environment
