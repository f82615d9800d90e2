#!/usr/bin/env bash
# Runs one program in N processes on this machine: as on N hosts, with real collectives.
#
#   launch/local.sh N PROGRAM --config=... --workdir=...
#
# JAX_NUM_CPU_DEVICES=4 gives each process four CPU devices (default 1); PYTHON names the Python.
# Process 0 speaks. The first process to fail ends all, with its exit status, and what the others
# said is shown. SIGTERM and Ctrl-C tell all processes to stop: they save, end with 143, and so does
# this. A second Ctrl-C kills them.

# shellcheck disable=SC2329 # traps call functions
set -euo pipefail

STOPPED=143 # of a process that was told to stop and saved everything: no failure

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,9p' "$0" >&2
    exit 2
fi
count=$1
shift
python=${PYTHON:-python3}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
logs=$(mktemp -d)
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-1}

declare -A running=() # number of a process, by its id
clean_up() {
    if ((${#running[@]})); then
        kill -KILL "${!running[@]}" || true
        wait "${!running[@]}" || true
    fi 2>/dev/null # and do not tell who was killed
    rm -r "$logs"
}
trap clean_up EXIT
tell() { kill "-$1" "${!running[@]}" 2>/dev/null || true; }
at_interrupt=TERM
trap 'tell TERM' TERM HUP
trap 'tell "$at_interrupt"; at_interrupt=KILL' INT

for ((i = 0; i < count; i++)); do
    command=("$python" -m ns_jax "$@"
        --coordinator="127.0.0.1:$port" --num_processes="$count" --process_id="$i")
    if ((i == 0)); then
        "${command[@]}" &
    else
        "${command[@]}" >"$logs/process_$i.log" 2>&1 &
    fi
    running[$!]=$i
done

result=0
while ((${#running[@]})); do
    ended='' status=0
    wait -n -p ended "${!running[@]}" || status=$?
    [[ ${ended-} ]] || continue # it was a signal, which has been passed on
    number=${running[$ended]}
    unset "running[$ended]"
    case $status in
    0) ;;
    "$STOPPED") result=$STOPPED ;; # training processes agree on a step, so the others follow
    *)
        # After the first that stopped nothing is left to save, and those that it leaves may say so.
        ((result == 0)) || continue
        echo "process $number ended with status $status" >&2
        ((count == 1)) || tail -n 20 "$logs"/process_*.log >&2
        exit "$status"
        ;;
    esac
done
exit "$result"
