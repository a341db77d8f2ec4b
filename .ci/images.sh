#!/usr/bin/env bash
# Stand-ins for the images postgres and redis, for machines that cannot pull: Debian bookworm with
# its own packages (PostgreSQL 15, Redis 7.0), which listen to the same settings as the real ones.
# What is here already is not built again. Needs root, debootstrap and a Docker engine.
set -euo pipefail

POSTGRES_IMAGE=worker-labs/postgres:ci
REDIS_IMAGE=worker-labs/redis:ci
RELEASE=bookworm
# Counts up when something below changes, so that an image of an older recipe is built anew.
RECIPE=1

has_image() {
    [ "$(docker image inspect --format '{{ index .Config.Labels "worker-labs.recipe" }}' "$1" \
        2>/dev/null)" = "$RECIPE" ]
}

# The mirror that apt uses on this machine; debootstrap's own if there is none for this release.
mirror() {
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v release="$RELEASE" '!found && $1 == release && $2 == "main" { print $3; found = 1 }'
}

build_root() { # folder
    # shellcheck disable=SC2046  # no mirror is no word
    debootstrap --variant=minbase "$RELEASE" "$1" $(mirror)
    # Nothing is started in there, and no cluster is made: the entry point does that.
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
    chmod 755 "$1/usr/sbin/policy-rc.d"
    mkdir -p "$1/etc/postgresql-common"
    echo 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.conf"
    cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    chroot "$1" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        apt-get install -y -q --no-install-recommends postgresql-15 redis-server
    rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb \
        "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1/etc/resolv.conf"
    entry_point >"$1/usr/local/bin/entry-point"
    chmod 755 "$1/usr/local/bin/entry-point"
}

# Does what the real images' entry points do, as far as the kit and testcontainers rely on it.
entry_point() {
    cat <<'ENTRY_POINT'
#!/bin/sh
set -eu

case "${1:-}" in
postgres)
    PGDATA=${PGDATA:-/var/lib/postgresql/data}
    export PGDATA
    if [ "$(id -u)" = 0 ]; then
        mkdir -p "$PGDATA" /var/run/postgresql
        chown -R postgres:postgres "$PGDATA" /var/run/postgresql
        chmod 700 "$PGDATA"
        exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        if [ -z "${POSTGRES_PASSWORD:-}" ]; then
            echo "Error: POSTGRES_PASSWORD is not set." >&2
            exit 1
        fi
        user=${POSTGRES_USER:-postgres}
        database=${POSTGRES_DB:-$user}
        secret=$(mktemp)
        printf '%s\n' "$POSTGRES_PASSWORD" >"$secret"
        initdb --no-sync --encoding=UTF8 --locale=C.UTF-8 --username="$user" --pwfile="$secret" \
            --auth-local=trust --auth-host=scram-sha-256
        rm -f "$secret"
        echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
        echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
        if [ "$database" != postgres ]; then
            name=$(printf '%s' "$database" | sed 's/"/""/g')
            echo "CREATE DATABASE \"$name\"" | postgres --single -j postgres >/dev/null
        fi
    fi
    ;;
redis-server)
    if [ "$(id -u)" = 0 ]; then
        mkdir -p /data
        chown redis:redis /data
        exec setpriv --reuid=redis --regid=redis --init-groups "$0" "$@"
    fi
    cd /data
    # As in the real image: a port is published on purpose.
    set -- "$@" --protected-mode no
    ;;
esac

exec "$@"
ENTRY_POINT
}

import_image() { # root, image, port, command
    tar --numeric-owner -C "$1" -c . | docker import \
        --change 'ENTRYPOINT ["/usr/local/bin/entry-point"]' \
        --change "CMD [\"$4\"]" \
        --change "EXPOSE $3" \
        --change 'ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'ENV LANG=C.UTF-8' \
        --change "LABEL worker-labs.recipe=$RECIPE" \
        - "$2"
}

build_images() {
    if has_image "$POSTGRES_IMAGE" && has_image "$REDIS_IMAGE"; then
        echo "The stand-in images are here."
        return
    fi
    echo "Building the stand-in images …"
    local work status=0
    work=$(mktemp -d)
    mkdir -m 755 "$work/root"
    # In a shell of its own: `set -e` does not hold inside a condition.
    (set -e; build_root "$work/root") >"$work/log" 2>&1 &
    wait $! || status=$?
    if [ "$status" = 0 ]; then
        import_image "$work/root" "$POSTGRES_IMAGE" 5432 postgres
        import_image "$work/root" "$REDIS_IMAGE" 6379 redis-server
    else
        tail -n 30 "$work/log" >&2
        echo "The stand-in images could not be built." >&2
    fi
    umount "$work/root/proc" "$work/root/sys" 2>/dev/null || true # where debootstrap was ended
    rm -rf --one-file-system "$work"
    return "$status"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    build_images
fi
