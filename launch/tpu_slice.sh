# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tpu_pod.sh
# One slice of Cloud TPUs, through gcloud: what tpu_pod.sh does to it.

DELETIONS=20 # attempts to delete a slice, --poll apart, before a person is asked to

# --- commands -------------------------------------------------------------------------------------

set -m # each command is a group of processes, which can be ended with all that it started
exec 3>&1 # where a dry run prints to, from within $(...) too
child=''

call() { # WORD...: a command; in a dry run printed instead, so that bash reads what would be run
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

remote() { # WORKER|all WORD...: runs on its host; each word arrives as it is
    local words
    printf -v words ' %q' "${@:2}"
    # A host that vanishes closes no connection: without signs of life ssh would wait for ever.
    tpus tpu-vm ssh "$name" --worker="$1" --command="cd ns_jax &&$words" \
        --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4
}

# --- the slice ------------------------------------------------------------------------------------

owned=0 # whether there may be a slice to delete
was_ready=0 # whether the one there is has been
installed=0 # whether its hosts are ready to start the program
pretended='' # in a dry run, the state of the slice
state='' # of the slice at the last look
told=0 # whether gcloud could ever tell it

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

# Sets `state` and says what changed; gcloud's own words for what it cannot tell are shown once.
look() {
    local before=$state
    if [[ $before == unknown ]]; then
        state=$(slice_state 2>/dev/null)
    else
        state=$(slice_state)
    fi
    case $state in
    "$before") ;;
    unknown) say "gcloud cannot tell how $name is, for the reason above: waits, and looks again" ;;
    *) say "$name is $state" ;;
    esac
    [[ $state == unknown ]] || told=1
}

# Whether gcloud could tell nothing, and then waits until it can. Not where it never could: that is
# a mistaken zone or a missing login, which no waiting mends, and there is no slice yet to lose.
outage() {
    look
    [[ $state == unknown ]] && ((told)) || return 1
    while [[ $state == unknown ]]; do
        patiently sleep "$poll"
        look
    done
}

create_slice() {
    say "asks for $name: $type in $zone ${kind[*]}"
    owned=1 was_ready=0 installed=0 pretended=ACTIVE
    tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
        --runtime-version="$runtime" "${kind[@]}"
}

# Until nothing is left of it: what is just being made, or just being deleted, refuses at first.
delete_slice() {
    local attempt
    for ((attempt = 0; attempt < DELETIONS; attempt++)); do
        tpus queued-resources delete "$name" --force || true
        pretended=''
        if [[ $(slice_state) == missing ]]; then
            [[ $(state_of tpu-vm state || echo unknown) ]] || { owned=0 was_ready=0 && return 0; }
            tpus tpu-vm delete "$name" || true
        fi
        sleep "$poll"
    done
    say "error: $name may still be there, and costs money. Delete it by hand:"
    say "  gcloud compute tpus queued-resources delete $name --force ${place[*]}"
    return 1
}

# A slice that stands; LOST if it was preempted before, another status if there will be none.
obtain_slice() {
    outage || true
    ((!was_ready)) || stands "$state" || return "$LOST" # since the last look
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
        look
        case $state in
        ready) was_ready=1 && return ;;
        failed) return 1 ;;
        lost | missing) return "$LOST" ;;
        esac
        patiently sleep "$poll"
    done
}
