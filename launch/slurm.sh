#!/usr/bin/env bash
#SBATCH --job-name=ns_jax
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# Runs one program in the tasks of a Slurm job, which divide a node's GPUs; from the repository:
#
#   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 --cpus-per-task=12 --time=24:00:00 \
#       launch/slurm.sh PROGRAM --config=... --workdir=...
#
# Requeues itself when it is preempted and two minutes before its time limit, not after `scancel`.
# After a failure it starts its tasks again, at most RETRIES times (3) in a row; an hour of work makes
# the next failure a first one. PYTHON names another Python than .venv/bin/python.
set -euo pipefail

STOPPED=143 # of a program that was told to stop and saved everything
# srun ends with the highest status of its tasks, and when one fails it stops the others, which end
# with 143. So what must not be hidden by that is made higher.
FAILED=201
REFUSED=202 # input that it cannot work with
# shellcheck disable=SC2016 # the task's shell expands it. SIGTERM reaches the program beside it.
TASK='trap : TERM; "$@"; s=$?; case $s in 0 | 143) exit $s ;; 2) exit '$REFUSED' ;; *) exit '$FAILED' ;; esac'

at_limit=0 told=0 failures=0 status=0
tell_tasks() { scancel --signal=TERM "$SLURM_JOB_ID" || true; } # srun itself would kill them
trap 'at_limit=1; tell_tasks' USR1
trap 'told=1' TERM # of `scancel` and of a preemption: the tasks have it too

# srun does not take it from the job by itself.
[[ -z ${SLURM_CPUS_PER_TASK-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

run_tasks() {
    srun --kill-on-bad-exit=1 bash -c "$TASK" - "${PYTHON:-.venv/bin/python}" -m ns_jax "$@" &
    local step=$!
    while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done # a signal ends a wait
    status=0
    wait "$step" || status=$?
}

# Slurm's notice of a preemption; `scancel` sends the same signal.
preempted() { [[ $(scontrol show job "$SLURM_JOB_ID") == *PreemptTime=[0-9]* ]]; }

while true; do
    began=$SECONDS
    run_tasks "$@"
    ((status)) || exit 0
    ((status != REFUSED)) || exit 2
    if ((at_limit)) || preempted; then
        scontrol requeue "$SLURM_JOB_ID"
        exit "$STOPPED"
    fi
    ((status != STOPPED && !told)) || exit "$STOPPED"
    ((SECONDS - began < 3600)) || failures=0
    if ((++failures > ${RETRIES:-3})); then
        exit 1
    fi
    echo "the tasks failed (status $status); starts them again, $failures of ${RETRIES:-3}" >&2
done
