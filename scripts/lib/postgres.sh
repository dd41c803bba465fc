# shellcheck shell=bash
#
# A private PostgreSQL server that lives as long as the script that started it.
#
# Sourced, never run. Meant for a script under `set -euo pipefail` that does:
#
#     bin=$(postgres_find) || { postgres_install && bin=$(postgres_find); }
#     trap postgres_stop EXIT              # before the start, or a failed start is left behind
#     postgres_start "$bin"                # sets postgres_url
#
# The server keeps everything (data, log, socket) in one temporary folder, takes a
# free port, and never touches a server that the machine already runs. Nobody but
# this machine reaches it, so it asks for no password. One server per script.

# The settings the tests rely on. Several test binaries, each with its own pools,
# share the server, and PostgreSQL's default of 100 connections is too few for them.
readonly POSTGRES_MAX_CONNECTIONS=200

# Longest wait for a start or a stop. A start takes a second or two; a loaded
# machine may need many more, but no reasonable machine needs a minute.
readonly POSTGRES_WAIT_SECONDS=60

# How many ports are tried. Each is picked at random out of thousands, so a second
# collision in a row is already unlikely, and ten mean that something else is wrong.
readonly POSTGRES_PORT_ATTEMPTS=10

# Longest folder name in which a socket still fits: Linux allows 107 bytes for the
# whole path, of which `/.s.PGSQL.32767` takes 15.
readonly POSTGRES_FOLDER_BYTES_MAX=92

postgres_folder=
postgres_bin=
# Read by the sourcing script after `postgres_start`.
# shellcheck disable=SC2034
postgres_url=

# Prints the folder that holds the newest `initdb`, `pg_ctl` and `postgres`.
# Fails, silently, if this machine has no PostgreSQL server.
postgres_find() {
    local initdb bin
    {
        # Debian keeps the server programs out of PATH, one folder per major version.
        for initdb in /usr/lib/postgresql/*/bin/initdb; do
            printf '%s\n' "$initdb"
        done | sort --version-sort --reverse
        # `pg_config` belongs to the client library on Debian, so it may well point to
        # a folder without a server; the check below sees to that.
        if command -v pg_config >/dev/null; then
            printf '%s/initdb\n' "$(pg_config --bindir 2>/dev/null)"
        fi
        command -v initdb || true
    } | {
        while read -r initdb; do
            bin=$(dirname -- "$initdb")
            if [[ -x $bin/initdb && -x $bin/pg_ctl && -x $bin/postgres ]]; then
                printf '%s\n' "$bin"
                # Read to the end: closing the pipe early would kill the writer, which
                # `pipefail` would take for a failure.
                cat >/dev/null
                exit 0
            fi
        done
        exit 1
    }
}

# Installs Debian packages. Fails with what to do instead where it cannot.
debian_install() {
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        printf 'error: these packages are missing and only root on Debian can have them installed here: %s\n' "$*" >&2
        printf '       Install them, for example with: sudo apt-get install %s\n' "$*" >&2
        return 1
    fi
    # A fresh machine may be busy with its own first upgrade: wait for it rather than fail.
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120)
    "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"
}

# Installs the PostgreSQL server, without the cluster Debian would create and start
# on port 5432: nobody asked for it, and it would outlive the tests.
#
# Runs in a subshell so that its trap undoes the setting even if it is interrupted.
postgres_install() (
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        folder=/etc/postgresql-common/createcluster.d
        setting=$folder/notification-ledger.conf
        trap 'rm -f -- "$setting"; rmdir --ignore-fail-on-non-empty -- "$folder" "${folder%/*}"' EXIT
        mkdir -p -- "$folder" || exit 1
        echo 'create_main_cluster = false' >"$setting" || exit 1
    fi
    debian_install postgresql || exit 1
)

# Starts a server with the programs in folder $1 and sets `postgres_url`. Further
# arguments are lines for `postgresql.conf`, which win over the ones written here.
postgres_start() {
    postgres_bin=$1
    shift

    if ((EUID == 0)) && ! id postgres >/dev/null 2>&1; then
        echo 'error: PostgreSQL refuses to run as root, and there is no user postgres to run it as.' >&2
        echo '       Create it (useradd --system postgres) or run this as an ordinary user.' >&2
        return 1
    fi

    # PGHOST, PGPORT, PGOPTIONS, PGSSLMODE and the like come from whoever works on this
    # machine. The server's programs and the clients under test would both obey them.
    unset "${!PG@}"

    _postgres_make_folder || return 1

    # The C locale exists everywhere, and sorts as SQLite does. Nothing of the new
    # cluster is worth a sync; what the tests write later still is.
    if ! _postgres_run "$postgres_bin/initdb" --pgdata="$postgres_folder/data" --username=postgres \
        --auth=trust --encoding=UTF8 --no-locale --no-sync >"$postgres_folder/initdb.log" 2>&1; then
        echo 'error: initdb failed:' >&2
        tail -n 20 -- "$postgres_folder/initdb.log" >&2
        return 1
    fi

    # `fsync` stays on: the ledger promises that what it answered is durable, and its
    # timing (commits that wait, so that the next batch fills) is part of what is tested.
    {
        echo "listen_addresses = '127.0.0.1'"
        echo "unix_socket_directories = '$postgres_folder'"
        echo "max_connections = $POSTGRES_MAX_CONNECTIONS"
        if (($# > 0)); then printf '%s\n' "$@"; fi
    } >>"$postgres_folder/data/postgresql.conf"

    # There is no way to ask for a free port without letting go of it again, so the
    # server itself finds out: one that is taken stops it at once, and another is tried.
    local attempt port log=$postgres_folder/server.log
    for ((attempt = 1; attempt <= POSTGRES_PORT_ATTEMPTS; attempt++)); do
        # 20000 to 32767: below the ports that Linux hands to outgoing connections.
        port=$((20000 + RANDOM % 12768))
        # The last line of a setting wins.
        echo "port = $port" >>"$postgres_folder/data/postgresql.conf"
        rm -f -- "$log"
        if _postgres_run "$postgres_bin/pg_ctl" start --pgdata="$postgres_folder/data" --log="$log" \
            --wait --timeout="$POSTGRES_WAIT_SECONDS" >"$postgres_folder/pg_ctl.log" 2>&1; then
            # shellcheck disable=SC2034
            postgres_url=postgres://postgres@127.0.0.1:$port/postgres
            return 0
        fi
        grep --quiet --no-messages 'Address already in use' -- "$log" || break
    done

    echo 'error: PostgreSQL did not start:' >&2
    tail -n 20 -- "$postgres_folder/pg_ctl.log" >&2
    if [[ -e $log ]]; then tail -n 20 -- "$log" >&2; fi
    return 1
}

# Stops the server and deletes its folder. Does nothing if none was started, so it
# may be called at any time and more than once.
postgres_stop() {
    if [[ -z $postgres_folder ]]; then return 0; fi

    local pid_file=$postgres_folder/data/postmaster.pid pid=
    if [[ -e $pid_file ]]; then
        # `immediate` neither waits for clients nor writes a checkpoint: the data are
        # about to be deleted anyway.
        if ! _postgres_run "$postgres_bin/pg_ctl" stop --pgdata="$postgres_folder/data" --mode=immediate \
            --wait --timeout="$POSTGRES_WAIT_SECONDS" >/dev/null 2>&1; then
            # Sent with the server's own rights, so a stale number harms nobody else's process.
            if read -r pid 2>/dev/null <"$pid_file"; then
                _postgres_run "$postgres_bin/pg_ctl" kill KILL "$pid" >/dev/null 2>&1 || true
            fi
        fi
    fi
    rm -rf -- "$postgres_folder" || echo "warning: could not delete $postgres_folder" >&2
    postgres_folder=
}

# Creates `postgres_folder`, owned by and reachable for the user the server runs as.
_postgres_make_folder() {
    local parent
    for parent in "${TMPDIR:-/tmp}" /tmp; do
        postgres_folder=$(mktemp -d "${parent%/}/ledger-postgres.XXXXXXXX") || continue
        if ((EUID == 0)); then chown postgres: "$postgres_folder"; fi
        # TMPDIR may be private to root, too long for a socket, or hold a character that
        # would need quoting in `postgresql.conf`. /tmp is none of these.
        if ((${#postgres_folder} <= POSTGRES_FOLDER_BYTES_MAX)) &&
            [[ $postgres_folder =~ ^[A-Za-z0-9/._+-]+$ ]] && _postgres_run true 2>/dev/null; then
            return 0
        fi
        rmdir -- "$postgres_folder"
        postgres_folder=
    done
    echo 'error: found no temporary folder that PostgreSQL can use; set TMPDIR to one.' >&2
    return 1
}

# Runs a program as the user who owns the server, in the server's folder: the current
# one may be closed to that user, and PostgreSQL's programs complain about that.
_postgres_run() (
    # Messages in English, since one of them is searched for.
    export LC_ALL=C
    if ((EUID == 0)); then
        # Root can enter any folder, so the change of folder comes after the change of user.
        # shellcheck disable=SC2016 # Expanded by the inner shell.
        exec runuser -u postgres -- bash -c 'cd -- "$0" && exec "$@"' "$postgres_folder" "$@"
    fi
    cd -- "$postgres_folder" && exec "$@"
)
