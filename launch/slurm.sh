#!/usr/bin/env bash
#SBATCH --job-name=ns_jax
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# Runs one program on the GPUs of a Slurm job, a task a GPU; from the repository:
#
#   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=12 --time=24:00:00 \
#       launch/slurm.sh PROGRAM --config=... --workdir=...
#
# Requeues itself when it is preempted and two minutes before its time limit, not after `scancel`.
# PYTHON names another Python than .venv/bin/python.
set -euo pipefail

STOPPED=143 # of a program that was told to stop and saved everything

srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m ns_jax "$@" &
step=$!
at_limit=0
trap 'kill -TERM "$step"' TERM # srun passes it on to all tasks
trap 'at_limit=1; kill -TERM "$step"' USR1

# Slurm's notice goes to the tasks and not to this script; `scancel` sends the same signal.
preempted() { [[ $(scontrol show job "$SLURM_JOB_ID") == *PreemptTime=[0-9]* ]]; }

while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done # a signal ends a wait
status=0
wait "$step" || status=$?
if ((status == STOPPED)) && { ((at_limit)) || preempted; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
