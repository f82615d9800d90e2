#!/usr/bin/env bash
# What tpu_pod.sh runs on the hosts of a slice, in the tree that it unpacked there.
#
#   install              an environment with ns_jax for TPUs, unless .venv is there already
#   start ARG...         `python -m ns_jax ARG...` in the background, after ending one that still runs
#   follow FROM          shows its log from a line (+1) or its last lines (3) until it ends; its status
#   report               its status, and the end of its log if it failed
#   done WORKDIR TEXT    writes TEXT to WORKDIR/DONE
#   send JOB WORKDIR     copies the log of a job to WORKDIR/logs each minute, until the job ends
#
# The program outlives the connection that started it: what it says and its status are files.
set -euo pipefail
cd "$(dirname "$0")/.."
job=$HOME/ns_jax_job # pid (of the program's group), log, status

running() { kill -0 -- "-$(cat "$job/pid" 2>/dev/null)" 2>/dev/null; }
status() { cat "$job/status" 2>/dev/null || echo 137; } # killed before it could say

case ${1-} in
install)
    # The Python of Cloud TPU's images may be too old (3.10); uv brings one.
    if [[ ! -x .venv/bin/python ]]; then
        python3 -m pip install --quiet --user uv
        python3 -m uv venv --quiet --python 3.12 .venv
        python3 -m uv pip install --quiet --python .venv/bin/python --editable '.[tpu]' gcsfs
    fi
    ;;
start)
    while running; do # it holds the TPU; its data workers belong to its group
        kill -KILL -- "-$(cat "$job/pid")" || true
        sleep 0.1
    done
    rm -rf "$job"
    mkdir "$job"
    workdir=''
    for argument in "$@"; do
        [[ $argument != --workdir=gs://?* ]] || workdir=${argument#*=}
    done
    # A host that is switched off sends SIGTERM to all: the inner shell outlives it, to say how the
    # program ended.
    # shellcheck disable=SC2016 # the inner shell expands
    PYTHONUNBUFFERED=1 setsid bash -c '
        trap : TERM
        echo $$ >"$0/pid"
        status=0
        [[ ! $1 ]] || launch/tpu_worker.sh send "$0" "$1" &
        .venv/bin/python -m ns_jax "${@:2}" || status=$?
        echo "$status" >"$0/status"
        wait
    ' "$job" "$workdir" "${@:2}" >"$job/log" 2>&1 </dev/null &
    until [[ -s $job/pid ]]; do sleep 0.1; done
    ;;
follow)
    tail -n "$2" --pid="$(cat "$job/pid")" -f "$job/log"
    exit "$(status)"
    ;;
report)
    for _ in {1..60}; do # its log is being sent
        if [[ ! -e $job/status ]] || ! running; then break; fi
        sleep 0.5
    done
    if running; then
        echo "host $(hostname) runs"
    else
        echo "host $(hostname) ended with status $(status)"
        [[ $(status) == 0 ]] || tail -n 20 "$job/log"
    fi
    ;;
done)
    .venv/bin/python -c 'import sys; from ns_jax import files
files.write(sys.argv[1], sys.argv[2].encode())' "${2%/}/DONE" "$3"
    ;;
send)
    # A host that is switched off sends SIGTERM to this as well.
    exec .venv/bin/python -c 'import os, pathlib, signal, socket, sys, time
from ns_jax import files
signal.signal(signal.SIGTERM, signal.SIG_IGN)
job, name = pathlib.Path(sys.argv[1]), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
there = f"{sys.argv[2]}/logs/{name}-{socket.gethostname()}-{os.getpid()}.log"
sent, ended = b"", False
while not ended:
    for _ in range(60):
        time.sleep(1)
        if ended := (job / "status").exists():
            break
    if (log := (job / "log").read_bytes()) != sent:
        try:
            files.write(there, log)
            sent = log
        except OSError as error:
            print(f"the log could not be sent: {error}", file=sys.stderr)' "$2" "${3%/}"
    ;;
*)
    sed -n '2,11p' "$0" >&2
    exit 2
    ;;
esac
