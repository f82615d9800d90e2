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
# Slurm requeues what it preempts; what meets its time limit requeues itself. PYTHON names another
# Python than .venv/bin/python.
set -euo pipefail

srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m ns_jax "$@" &
step=$!
at_limit=0
trap 'kill -TERM "$step"' TERM # srun passes it on to all tasks
trap 'at_limit=1; kill -TERM "$step"' USR1

while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done # a signal ends a wait
status=0
wait "$step" || status=$?
# Not after `scancel`, whose TERM means it; not after 2, for input that will be no better.
if ((at_limit && status != 0 && status != 2)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
