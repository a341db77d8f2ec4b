#!/usr/bin/env bash
# Stand-ins for the images postgres, redis and python, for machines that cannot pull: Debian bookworm
# with its own packages (PostgreSQL 15, Redis 7.0, Python 3.11), which listen to the same settings as
# the real ones. What is here already is not built again. Needs root, debootstrap and a Docker
# engine.
set -euo pipefail

POSTGRES_IMAGE=worker-labs/postgres:ci
REDIS_IMAGE=worker-labs/redis:ci
PYTHON_IMAGE=worker-labs/python:ci
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

bootstrap() { # folder
    # shellcheck disable=SC2046  # no mirror is no word
    debootstrap --variant=minbase "$RELEASE" "$1" $(mirror)
    # Nothing is started in there, and no cluster is made: the entry point does that.
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
    chmod 755 "$1/usr/sbin/policy-rc.d"
    mkdir -p "$1/etc/postgresql-common"
    echo 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.conf"
}

install_into() { # folder, packages
    local root=$1
    shift
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        apt-get install -y -q --no-install-recommends "$@"
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin \
        "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/doc/* "$root"/usr/share/man/* \
        "$root"/usr/share/locale/* "$root/etc/resolv.conf"
}

servers_root() { # folder
    install_into "$1" postgresql-15 redis-server
    entry_point >"$1/usr/local/bin/entry-point"
    chmod 755 "$1/usr/local/bin/entry-point"
}

python_root() { # folder
    install_into "$1" python3 python3-venv python3-pip ca-certificates
    # As in the real image: `python` is there, and pip may install beside it.
    ln -sf python3 "$1/usr/bin/python"
    rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED
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

import_root() { # root, image, changes
    local root=$1 image=$2 change options=()
    shift 2
    for change in "LABEL worker-labs.recipe=$RECIPE" 'ENV LANG=C.UTF-8' "$@"; do
        options+=(--change "$change")
    done
    tar --numeric-owner -C "$root" -c . | docker import "${options[@]}" - "$image"
}

import_server() { # root, image, port, command
    import_root "$1" "$2" 'ENTRYPOINT ["/usr/local/bin/entry-point"]' "CMD [\"$4\"]" "EXPOSE $3" \
        'ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

build_all() { # work folder, whether servers are wanted, whether Python is
    bootstrap "$1/servers"
    if [ "$3" = yes ]; then cp -a "$1/servers" "$1/python"; fi
    if [ "$2" = yes ]; then
        servers_root "$1/servers"
        import_server "$1/servers" "$POSTGRES_IMAGE" 5432 postgres
        import_server "$1/servers" "$REDIS_IMAGE" 6379 redis-server
    fi
    if [ "$3" = yes ]; then
        python_root "$1/python"
        import_root "$1/python" "$PYTHON_IMAGE" 'CMD ["python3"]' \
            'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
    fi
}

build_images() {
    local servers=no python=no
    if ! has_image "$POSTGRES_IMAGE" || ! has_image "$REDIS_IMAGE"; then servers=yes; fi
    if ! has_image "$PYTHON_IMAGE"; then python=yes; fi
    if [ "$servers$python" = nono ]; then
        echo "The stand-in images are here."
        return
    fi
    echo "Building the stand-in images …"
    local work root status=0
    work=$(mktemp -d)
    mkdir -m 755 "$work/servers"
    # In a shell of its own: `set -e` does not hold inside a condition.
    (set -e; build_all "$work" "$servers" "$python") >"$work/log" 2>&1 &
    wait $! || status=$?
    if [ "$status" != 0 ]; then
        tail -n 30 "$work/log" >&2
        echo "The stand-in images could not be built." >&2
    fi
    for root in servers python; do # where debootstrap was ended
        umount "$work/$root/proc" "$work/$root/sys" 2>/dev/null || true
    done
    rm -rf --one-file-system "$work"
    return "$status"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    build_images
fi
