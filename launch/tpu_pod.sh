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
#   --retries=5           failures in a row until it gives up; preemptions and outages are none
#   --pause=60            seconds before trying again, doubled with each failure in a row
#   --poll=30             seconds between looks at the slice
#   --keep                leaves the slice when it ends
#   --dry-run             prints the commands and runs none
#
# Ends with status 0 once WORKDIR/DONE stands, 2 for input that the program cannot work with, 1
# otherwise; the slice is deleted each time. docs/launch.md says more.
set -euo pipefail

LOST=75 # the status of what a preemption ended
STOPPED=143 # of a program that had notice of one and saved everything
SETTLED=3600 # seconds of running after which a failure is the first in a row again
SILENT=5 # times in a row that hosts may not answer, --poll apart, before it counts as lost

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

# shellcheck source=launch/tpu_slice.sh
source "$root/launch/tpu_slice.sh"

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

# Shows the log of host 0 until the program ends there: 0, 2, STOPPED or 1; LOST without a slice.
follow() {
    local report status silent=0 next=$((SECONDS + poll)) lines=+1
    while ((silent < SILENT)); do
        remote 0 launch/tpu_worker.sh follow "$lines" &
        child=$! lines=3
        while kill -0 "$child" 2>/dev/null; do
            sleep 0.2
            ((SECONDS >= next)) || continue
            look
            stands "$state" || { end_child && return "$LOST"; }
            next=$((SECONDS + poll))
        done
        ! wait "$child" || { child='' && return 0; }
        child=''
        # The connection ended, or the program: what the hosts wrote down tells.
        if ! report=$(remote all launch/tpu_worker.sh report); then
            ! outage || continue # the silence was this machine's, not theirs
            stands "$state" || return "$LOST"
            silent=$((silent + 1))
            say "hosts of $name are out of reach ($silent of $SILENT times)"
            patiently sleep "$poll"
        elif [[ $report == *"ended with status "[1-9]* ]]; then
            printf '%s\n' "$report" >&2
            for status in 2 "$STOPPED"; do # of one host, and the others failed for want of it
                ! grep -q "^host .* ended with status $status\b" <<<"$report" || return "$status"
            done
            return 1
        else
            silent=0
        fi
    done
    return "$LOST"
}

run_program() {
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
    ((status == 0 || status == 2)) || { look && stands "$state"; } || return "$LOST"
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
        "$STOPPED") say "the program had notice of a preemption; $name stands, so it starts again" ;;
        "$LOST")
            failures=0 # what failed just before was its hosts, one after the other
            preemptions=$((preemptions + 1))
            say "$name was lost (so far $preemptions times): a new one is made"
            until delete_slice; do outage || return; done
            ;;
        *)
            ! outage || continue # nobody can say what failed for want of gcloud
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
