# Sourced by the launchers: how they read options, print and stop.
# shellcheck shell=bash

DRY_RUN=""

fail() { # a user's mistake: status 2, as of every command here
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# The words of a command as one would type them.
quoted() {
    local word out=""
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
        out+=" $word"
    done
    printf '%s\n' "${out:1}"
}

# Does what it is given; with --dry_run it prints that alone.
run() {
    if [ -n "$DRY_RUN" ]; then quoted "$@"; else "$@"; fi
}

# The comment at the head of a script.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}

needs() { # an option and what follows it
    [ $# -ge 2 ] || fail "$1 needs a value"
}

whole() { # option, value, smallest value
    if ! [[ $2 =~ ^[0-9]+$ ]] || [ "$2" -lt "$3" ]; then
        fail "$1 $2: expected a whole number of at least $3"
    fi
}

# The folder or bucket after --workdir among the words of a training command; status 1 without one.
workdir_of() {
    local word follows=""
    for word in "$@"; do
        [ -z "$follows" ] || { printf '%s\n' "$word" && return; }
        case "$word" in
            --workdir=*) printf '%s\n' "${word#*=}" && return ;;
            --workdir) follows=1 ;;
        esac
    done
    return 1
}
