# shellcheck shell=bash
#
# Steps of a script, each with its name and how long it took, which end with the script
# and take what they started with them.
#
# Sourced, never run, after `postgres.sh`. Meant for a script under `set -euo pipefail`,
# in the repository's folder, that does:
#
#     steps_begin                          # from here on Ctrl-C and the like clean up
#     prepare_rust
#     prepare_postgres                     # sets postgres_programs
#     run 'cargo fmt' cargo fmt --check

# How long a step that was told to end may take before it is killed. The ledger
# promises to shut down within 10 seconds.
readonly GRACE_SECONDS=12

# The step that is running: the id of its process and of its process group.
step=

# Where PostgreSQL's programs are, after `prepare_postgres`.
# shellcheck disable=SC2034
postgres_programs=

# Cleans up however the script ends.
#
# Bash runs these as soon as the signal arrives only because steps run in the
# background; see `run`. The exit code is what shells report for that signal.
steps_begin() {
    trap on_exit EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Makes sure that `cargo` and what it compiles C with are there.
prepare_rust() {
    # A shell that was not a login shell, as in most CI, has not read what rustup set up.
    if ! command -v cargo >/dev/null; then
        PATH=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH
    fi
    local version
    version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    command -v cargo >/dev/null ||
        fail "cargo was not found. Install Rust $version or newer, for example with rustup, and see that cargo is in PATH."

    # Rust links with `cc`, the embedded SQLite is compiled with it, and the allocator with `make` too.
    command -v cc >/dev/null || run 'install a C compiler' debian_install gcc libc6-dev
    command -v make >/dev/null || run 'install make' debian_install make
}

# Makes sure that there is a PostgreSQL server to start.
prepare_postgres() {
    if ! postgres_programs=$(postgres_find); then
        run 'install PostgreSQL' postgres_install
        postgres_programs=$(postgres_find) || fail 'PostgreSQL was installed, but its server programs were not found.'
    fi
}

# Starts the private server with these settings, and sets `postgres_url`.
#
# Not through `run`, whose background process could not hand the address back.
start_postgres() {
    local started=$SECONDS
    announce "start PostgreSQL ($postgres_programs)"
    postgres_start "$postgres_programs" "$@"
    finish 'start PostgreSQL' "$started"
}

# Runs one step, named $1, and ends the script if it fails.
#
# In the background, because bash handles a signal only once the foreground program has
# ended: a cancelled job would go on testing for minutes. With a process group of its
# own (`set -m`), so that everything it started can be ended with it. Nothing here asks
# questions, and a background process must not read from the terminal.
run() {
    local name=$1 started=$SECONDS status=0
    shift
    announce "$name"
    set -m
    "$@" </dev/null &
    step=$!
    set +m
    wait "$step" || status=$?
    # Usually nobody is left. But a failed test may have left its server running.
    end_step
    if ((status != 0)); then
        printf 'error: %s failed after %d s (exit code %d)\n' "$name" $((SECONDS - started)) "$status" >&2
        exit "$status"
    fi
    finish "$name" "$started"
}

# Ends what is left of the running step: politely, then for certain.
end_step() {
    if [[ -z $step ]]; then return 0; fi
    local group=$step deadline=$((SECONDS + GRACE_SECONDS))
    step=
    kill -TERM -- "-$group" 2>/dev/null || return 0
    while kill -0 -- "-$group" 2>/dev/null; do
        if ((SECONDS >= deadline)); then
            kill -KILL -- "-$group" 2>/dev/null || true
            break
        fi
        sleep 0.1
    done
}

on_exit() {
    local status=$?
    # An impatient second Ctrl-C must not leave the server behind.
    trap '' HUP INT TERM
    trap - EXIT
    end_step
    postgres_stop
    exit "$status"
}

announce() {
    printf '==> %s\n' "$1"
}

finish() {
    printf '    %s: %d s\n' "$1" $((SECONDS - $2))
}

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}
