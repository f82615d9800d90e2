#!/usr/bin/env bash
# Runs one program in N processes on this machine: as on N hosts, with real collectives.
#
#   launch/local.sh N PROGRAM --config=... --workdir=...
#
# JAX_NUM_CPU_DEVICES=4 gives each process four CPU devices (default 1). Process 0 speaks; what the
# others say is shown when one of them fails: the first to fail ends all, with its exit status.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,8p' "$0" >&2
    exit 2
fi
count=$1
shift
python=${PYTHON:-python3}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
logs=$(mktemp -d)
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-1}

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT INT TERM
for ((i = 0; i < count; i++)); do
    command=("$python" -m ns_jax "$@" --coordinator="127.0.0.1:$port" --num_processes="$count" --process_id="$i")
    if ((i == 0)); then
        "${command[@]}" &
    else
        "${command[@]}" >"$logs/process_$i.log" 2>&1 &
    fi
    pids+=($!)
done

running=("${pids[@]}")
while ((${#running[@]})); do
    status=0
    wait -n -p ended "${running[@]}" || status=$?
    left=()
    for pid in "${running[@]}"; do [[ $pid == "$ended" ]] || left+=("$pid"); done
    running=(${left[@]+"${left[@]}"})
    if ((status)); then
        for i in "${!pids[@]}"; do
            [[ ${pids[i]} != "$ended" ]] || echo "process $i ended with status $status" >&2
        done
        ((count == 1)) || tail -n 20 "$logs"/process_*.log >&2
        exit "$status"
    fi
done
rm -r "$logs"
