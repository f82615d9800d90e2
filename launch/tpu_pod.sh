#!/usr/bin/env bash
# Runs one program on all hosts of a Cloud TPU slice, on new slices for as long as it takes.
#
#   launch/tpu_pod.sh run --name=NAME --zone=ZONE --type=v3-32 [options] -- PROGRAM --config=... --workdir=...
#   launch/tpu_pod.sh status|logs|stop --name=NAME --zone=ZONE [--project=PROJECT]
#
#   --spot | --reserved   instead of on demand
#   --project=PROJECT     instead of gcloud's
#   --runtime=VERSION     of the hosts' software; by default the one for JAX on this type
#   --env=NAME=VALUE      for the program; as often as needed
#   --setup=COMMAND       run by every host before the installation: to mount a bucket, for example
#   --retries=5           failures in a row after which it gives up; being preempted is none
#   --pause=60            seconds before trying again, doubled with each failure in a row
#   --poll=30             seconds between looks at the slice
#   --keep                leaves the slice when it ends
#   --dry-run             prints the commands and runs none
#
# Ends with status 0 once WORKDIR/DONE stands, 2 for input that the program cannot work with, 1
# otherwise; the slice is deleted each time. docs/launch.md says more.
set -euo pipefail

LOST=75 # the status of what a preemption ended
SETTLED=3600 # seconds of running after which a failure is the first in a row again
MISSES=5 # in a row, when asking a slice's hosts, after which the slice counts as lost

say() { echo "tpu_pod: $*" >&2; }
fail() { # STATUS MESSAGE
    say "error: $2"
    exit "$1"
}

root=$(cd "$(dirname "$0")/.." && pwd)
name='' zone='' type='' runtime='' setup='' workdir=''
retries=5 pause=60 poll=30 keep=0 dry_run=0
place=() kind=() variables=() program=()

action=${1-}
if [[ ! $action =~ ^(run|status|logs|stop)$ ]]; then
    sed -n '2,20p' "$0" >&2
    exit 2
fi
shift
while (($#)); do
    value=${1#*=}
    case $1 in
    --name=?*) name=$value ;;
    --zone=?*) zone=$value ;;
    --project=?*) place+=("$1") ;;
    --type=?*) type=${value/#v5e-/v5litepod-} ;; # as the API calls it
    --runtime=?*) runtime=$value ;;
    --spot | --reserved) kind+=("$1") ;;
    --env=?*=*) variables+=("$value") ;;
    --setup=?*) setup=$value ;;
    --retries=* | --pause=* | --poll=*)
        [[ $value =~ ^[1-9][0-9]*$ ]] || fail 2 "$1: a whole number above 0 is needed"
        option=${1%%=*}
        printf -v "${option#--}" %s "$value"
        ;;
    --keep) keep=1 ;;
    --dry-run) dry_run=1 ;;
    --)
        program=("${@:2}")
        break
        ;;
    *) fail 2 "unknown option $1; $0 without arguments lists them" ;;
    esac
    shift
done

[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail 2 "--name=NAME is needed, of small letters, digits and dashes; it is '$name'"
[[ $zone ]] || fail 2 "--zone=ZONE is needed, as --zone=europe-west4-a"
place+=("--zone=$zone" --quiet)
if [[ $action == run ]]; then
    case $type in
    v[234]-[1-9]*) default=tpu-ubuntu2204-base ;;
    v5litepod-[1-9]*) default=v2-alpha-tpuv5-lite ;;
    v5p-[1-9]*) default=v2-alpha-tpuv5 ;;
    v6e-[1-9]*) default=v2-alpha-tpuv6e ;;
    *) fail 2 "--type=TYPE is needed, as v3-32: v2, v3, v4, v5p and cores, v5e, v6e and chips" ;;
    esac
    runtime=${runtime:-$default}
    ((${#kind[@]} < 2)) || fail 2 "--spot and --reserved do not go together"
    for argument in "${program[@]}"; do
        [[ $argument != --workdir=?* ]] || workdir=${argument#*=}
    done
    [[ $workdir == /* || $workdir == *://* ]] ||
        fail 2 "after --, a program with --workdir=DIR is needed, an absolute path on a disk or in \
a bucket that outlives the slice; it is '$workdir'"
    program+=(--distributed)
fi
((dry_run)) || command -v gcloud >/dev/null ||
    fail 2 "there is no gcloud; https://cloud.google.com/sdk/docs/install says how to get it"

# --- commands -------------------------------------------------------------------------------------

set -m # each command is a group of processes, which can be ended with all that it started
exec 3>&1 # where a dry run prints to, from within $(...) too
child=''

call() {
    local word
    if ((!dry_run)); then
        "$@" </dev/null
        return $? # said, because in a trap a bare `return` is of what went before it
    fi
    for word; do
        [[ $word =~ ^[-a-zA-Z0-9_=.,:/~]+$ ]] || word=${word@Q}
        printf '%s ' "$word" >&3
    done
    echo >&3
}

# For what takes long: bash heeds a signal between commands, or while it waits.
patiently() {
    local status=0
    "$@" &
    child=$!
    wait "$child" || status=$?
    child=''
    return "$status"
}

end_child() {
    if [[ $child ]]; then
        kill -- "-$child" 2>/dev/null || true
        { wait "$child" || true; } 2>/dev/null # and do not tell that it was ended
    fi
    child=''
}

tpus() { call gcloud compute tpus "$1" "$2" "${@:3}" "${place[@]}"; }

remote() { # WORKER WORD...: each word arrives as it is
    local words
    printf -v words ' %q' "${@:2}"
    # A host that vanishes closes no connection: without signs of life ssh would wait for ever.
    tpus tpu-vm ssh "$name" --worker="$1" --command="cd ns_jax &&$words" \
        --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4
}

# --- the slice ------------------------------------------------------------------------------------

pretended='' # state of the queued resource, in a dry run

# Of a queued resource or its node; nothing if it is not there. Listing tells what is not there from
# a service that is out of reach; describing fails either way.
state_of() { # GROUP FIELD
    tpus "$1" list --filter="name~/$name\$" --format="value($2)" || return $?
    ((!dry_run)) || echo "$pretended"
}

# ready, waiting, failed, lost, missing, or unknown where gcloud cannot say.
slice_state() {
    local queued node
    queued=$(state_of queued-resources state.state) || { echo unknown && return 0; }
    case $queued in
    '') echo missing ;;
    ACTIVE)
        node=$(state_of tpu-vm state) || { echo unknown && return 0; }
        case $node in
        READY | ACTIVE) echo ready ;; # ACTIVE: a dry run's
        CREATING | STARTING) echo waiting ;;
        *) echo lost ;;
        esac
        ;;
    FAILED) echo failed ;;
    SUSPENDING | SUSPENDED | DELETING) echo lost ;;
    *) echo waiting ;;
    esac
}

stands() { [[ $1 == ready || $1 == unknown ]]; }

owned=0 # whether there may be a slice to delete
installed=0

create_slice() {
    say "asks for $name: $type in $zone ${kind[*]}"
    owned=1 installed=0 pretended=ACTIVE
    tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
        --runtime-version="$runtime" "${kind[@]}"
}

# Until nothing is left of it: what is just being made, or just being deleted, refuses at first.
delete_slice() {
    local attempt
    for ((attempt = 0; attempt < 20; attempt++)); do
        tpus queued-resources delete "$name" --force || true
        pretended=''
        if [[ $(slice_state) == missing ]]; then
            [[ $(state_of tpu-vm state || echo unknown) ]] || { owned=0 && return 0; }
            tpus tpu-vm delete "$name" || true
        fi
        sleep "$poll"
    done
    say "error: $name may still be there, and costs money. Delete it by hand:"
    say "  gcloud compute tpus queued-resources delete $name --force ${place[*]}"
    return 1
}

# A slice that stands; LOST if it was preempted first, another status if there will be none.
obtain_slice() {
    local state seen=''
    state=$(slice_state)
    case $state in
    unknown) return 1 ;;
    ready | waiting) owned=1 ;;
    lost | failed)
        say "deletes what is left of $name ($state)"
        delete_slice || return
        create_slice || return
        ;;
    missing) create_slice || return ;;
    esac
    while true; do
        state=$(slice_state)
        [[ $state == "$seen" ]] || say "$name is $state"
        seen=$state
        case $state in
        ready) return ;;
        failed) return 1 ;;
        lost | missing) return "$LOST" ;;
        esac
        patiently sleep "$poll"
    done
}

# --- the job --------------------------------------------------------------------------------------

# DONE says what was run, so that another program's does not count.
done_stands() {
    local read=(cat)
    [[ $workdir != gs://* ]] || read=(gcloud storage cat)
    [[ $(call "${read[@]}" "${workdir%/}/DONE" 2>/dev/null || true) == "${program[*]}" ]]
}

install() {
    local archive=$scratch/ns_jax.tgz unpack
    unpack='rm -rf ns_jax && mkdir ns_jax && tar -xzf ns_jax.tgz -C ns_jax'
    say "installs on all hosts"
    call tar -czf "$archive" -C "$root" --exclude=__pycache__ \
        ns_jax configs launch pyproject.toml requirements.txt README.md LICENSE &&
        patiently tpus tpu-vm scp "$archive" "$name:" --worker=all &&
        patiently tpus tpu-vm ssh "$name" --worker=all --command="$unpack" &&
        { [[ ! $setup ]] || patiently remote all bash -c "$setup"; } &&
        patiently remote all launch/tpu_worker.sh install &&
        installed=1
}

# Shows the log of host 0 until the program ends there: 0, 2, or 1; LOST once the slice is gone.
follow() {
    local report misses=0 seconds=0 lines=+1
    while ((misses < MISSES)); do
        remote 0 launch/tpu_worker.sh follow "$lines" &
        child=$! lines=3
        while kill -0 "$child" 2>/dev/null; do
            sleep 1
            ((++seconds % poll)) || stands "$(slice_state)" || { end_child && return "$LOST"; }
        done
        ! wait "$child" || { child='' && return 0; }
        child=''
        # The connection ended, or the program: what the hosts wrote down tells.
        if ! report=$(remote all launch/tpu_worker.sh report); then
            misses=$((misses + 1))
            say "hosts of $name are out of reach ($misses of $MISSES times)"
        elif [[ $report == *"ended with status "[1-9]* ]]; then
            printf '%s\n' "$report" >&2
            [[ $report =~ ended\ with\ status\ 2($'\n'|$) ]] && return 2
            return 1
        else
            misses=0
        fi
    done
    return "$LOST"
}

run_program() {
    local status=0
    patiently remote all env "${variables[@]}" launch/tpu_worker.sh start "${program[@]}" || return 1
    say "runs; host 0 says:"
    follow || return
    patiently remote 0 launch/tpu_worker.sh 'done' "$workdir" "${program[*]}" || return 1
}

attempt() {
    local status=0
    obtain_slice || return
    ((installed)) || install || status=1
    ((status)) || run_program || status=$?
    ((status == 0 || status == 2)) || stands "$(slice_state)" || return "$LOST"
    return "$status"
}

run() {
    local status began failures=0 preemptions=0
    while ! done_stands; do
        status=0 began=$SECONDS
        attempt || status=$?
        case $status in
        0) break ;;
        2) fail 2 "the program cannot work with its input; the hosts' messages stand above" ;;
        "$LOST")
            preemptions=$((preemptions + 1))
            say "$name was lost (so far $preemptions times): a new one is made"
            delete_slice || return
            ;;
        *)
            ((SECONDS - began < SETTLED)) || failures=0
            failures=$((failures + 1))
            ((failures <= retries)) || fail 1 "gives up after $failures failures in a row"
            say "failure $failures; tries again in $((pause << (failures - 1))) s"
            patiently sleep "$((pause << (failures - 1)))"
            ;;
        esac
    done
    say "done: ${workdir%/}/DONE stands; $preemptions slices were lost"
}

# --- actions --------------------------------------------------------------------------------------

launcher=${TMPDIR:-/tmp}/tpu_pod.$UID.$name # holds the process that runs the job, on this machine
launcher_lives() { [[ $(ps -o args= -p "$(cat "$launcher" 2>/dev/null)" 2>/dev/null) == *tpu_pod.sh* ]]; }

clean_up() {
    local status=$?
    trap '' INT TERM HUP
    end_child
    if ((owned && keep)); then
        say "$name is kept and costs money until: $0 stop --name=$name --zone=$zone"
    elif ((owned)); then
        say "deletes $name"
        delete_slice || status=1
    fi
    rm -rf "$scratch" "$launcher"
    exit "$status"
}

case $action in
run)
    ! launcher_lives || fail 2 "process $(cat "$launcher") runs $name already; stop ends it"
    scratch=$(mktemp -d)
    ((dry_run)) || echo $$ >"$launcher"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    run
    ;;
status)
    state=$(slice_state)
    say "$name is $state; launcher on this machine: $(launcher_lives && cat "$launcher" || echo none)"
    [[ $state != ready ]] || remote all launch/tpu_worker.sh report
    ;;
logs) remote 0 launch/tpu_worker.sh follow +1 ;;
stop)
    if launcher_lives; then
        kill "$(cat "$launcher")"
        while launcher_lives; do sleep 0.2; done
    fi
    [[ $(slice_state) == missing ]] || delete_slice
    ;;
esac
