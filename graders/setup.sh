#!/bin/sh
# Makes the kit's own Python environment, .venv, and keeps it up to date.
#
#   sh graders/setup.sh [EXTRA]...     EXTRA: test, notebook (see pyproject.toml)
#
# Written for any POSIX shell. It is run by make, which skips it while the stamps .venv/.ready-* are
# newer than pyproject.toml and constraints.txt. PYTHON=/path/to/python names the interpreter to use.
# Wheels in .wheelhouse come first; the network is asked only if they do not suffice.
set -u
cd "$(dirname "$0")/.." || exit 2

venv=.venv
state=.worker-labs
log=$state/setup.log
lock=$state/setting-up
locked=
wheelhouse=.wheelhouse # a relative path, as that of the kit may hold any character
lacking=               # what keeps it from being used

# These would send the packages elsewhere, or mix others into the environment.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER __PYVENV_LAUNCHER__

say() { printf '%s\n' "$@" >&2; }

stop() {
    say "$@"
    exit 2
}

on_exit() {
    if [ -n "$locked" ]; then rm -f "$lock"; fi
}
trap on_exit EXIT
trap 'say "" "The set-up was interrupted; the next make does it again."; exit 130' INT
trap 'exit 143' TERM HUP

# --- One set-up at a time ---------------------------------------------------------------------

mkdir -p "$state" 2>/dev/null || stop "The set-up cannot write to this folder: $(pwd)"

waited=0
gone=0
# noclobber makes the creation of the lock atomic.
until (set -C; echo $$ >"$lock") 2>/dev/null; do
    if [ ! -e "$lock" ]; then
        # Its holder may just have ended.
        gone=$((gone + 1))
        [ "$gone" -lt 5 ] || stop "The set-up cannot write to this folder: $(pwd)/$state"
        continue
    fi
    owner=$(cat "$lock" 2>/dev/null)
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
        rm -f "$lock" # it was left by a set-up that was killed
        continue
    fi
    [ "$waited" -gt 0 ] || say "Another set-up is under way in this folder; waiting for it."
    waited=$((waited + 1))
    [ "$waited" -lt 600 ] || stop "It has not ended after 10 minutes. If there is none, remove $lock."
    sleep 1
done
locked=yes

# Whoever waited for another set-up may find everything done.
fresh() {
    [ -x "$venv/bin/python" ] || return 1
    for stamp in base "$@"; do
        [ "$(cat "$venv/.ready-$stamp" 2>/dev/null)" = "$(pwd -P)" ] || return 1
        # find, as `test -nt` is not POSIX
        [ -z "$(find pyproject.toml graders/constraints.txt -newer "$venv/.ready-$stamp")" ] ||
            return 1
    done
}
if [ "$waited" -gt 0 ] && fresh "$@"; then exit 0; fi

# --- A Python -----------------------------------------------------------------------------------

# Prints the pip wheel that this Python carries for new environments, or "ensurepip" when pip can
# only be had through that module. Fails when the Python is too old, or has neither.
pip_source() {
    "$1" -I -c '
import sys
if sys.version_info < (3, 11):
    sys.exit(3)
import glob, importlib.util, os, sysconfig, venv
spec = importlib.util.find_spec("ensurepip")
places = [sysconfig.get_config_var("WHEEL_PKG_DIR"), "/usr/share/python-wheels"]
if spec and spec.origin:
    places.insert(0, os.path.join(os.path.dirname(spec.origin), "_bundled"))
for place in filter(None, places):
    wheels = sorted(glob.glob(os.path.join(glob.escape(place), "pip-*.whl")))
    if wheels:
        print(wheels[-1])
        sys.exit(0)
if not spec:
    sys.exit(4)
print("ensurepip")
' 2>/dev/null </dev/null
}

# Whether there are wheels that were made for just this Python.
has_wheels() {
    tag=$("$1" -I -c 'import sys; print("cp%d%d" % sys.version_info[:2])' 2>/dev/null </dev/null) ||
        return 1
    for wheel in "$wheelhouse"/*-"$tag"-*.whl; do
        if [ -f "$wheel" ]; then return 0; fi
    done
    return 1
}

python=
without_venv=
choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3.14 python3.13 python3.12 python3.11 python3 python
    fi
    for candidate; do # an older one that can be set up without the network comes first
        command -v "$candidate" >/dev/null 2>&1 && has_wheels "$candidate" || continue
        set -- "$candidate" "$@"
        break
    done
    for candidate; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        # A command may be there and yet not run (a shim, a stub): then it fails here.
        pip_wheel=$(pip_source "$candidate")
        case $? in
        0)
            python=$candidate
            return
            ;;
        4) [ -n "$without_venv" ] || without_venv=$candidate ;;
        esac
    done
}

how_to_install() {
    if [ "$(uname -s)" = Darwin ]; then
        say "    brew install python@3.13" "or take the installer from https://www.python.org/downloads/"
    elif command -v apt-get >/dev/null 2>&1; then
        say "    sudo apt-get install $1"
    elif command -v dnf >/dev/null 2>&1; then
        say "    sudo dnf install python3.12"
    elif command -v apk >/dev/null 2>&1; then
        say "    apk add python3"
    else
        say "    https://www.python.org/downloads/"
    fi
}

need_python() {
    choose_python
    [ -z "$python" ] || return 0
    if [ -n "$without_venv" ]; then
        version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        say "Python $version is here, but it cannot make environments (its module ensurepip is missing)."
        say "Install what is missing, then run make again:"
        how_to_install "python$version-venv"
    elif [ -n "${PYTHON:-}" ]; then
        say "PYTHON=$PYTHON is not a Python 3.11 or newer that runs."
    else
        say "Worker Labs needs Python 3.11 or newer, and none was found. Install one, then run make again:"
        how_to_install "python3 python3-venv"
        say "If there is one elsewhere: make PYTHON=/path/to/python3"
    fi
    exit 2
}

# --- The environment ----------------------------------------------------------------------------

# No environment, one whose Python has gone, a half-made one: make it anew.
usable() {
    [ ! -e "$venv/.unfinished" ] &&
        "$venv/bin/python" -I -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

space_left() { df -Pk . 2>/dev/null | awk 'NR == 2 { print $4 }'; }

disk_is_full() {
    left=$(space_left)
    grep -q -e 'No space left' -e 'Errno 28' -e 'Disk quota exceeded' "$log" 2>/dev/null ||
        [ "${left:-999999}" -lt 20000 ]
}

failed() {
    if disk_is_full; then
        say "The set-up failed: no space is left on the disk. About 300 MB are needed; free some and"
        say "run make again."
    elif grep -q -e 'Max retries exceeded' -e 'NewConnectionError' -e 'name resolution' \
        -e 'nodename nor servname' -e 'Connection refused' -e 'Connection reset' -e 'timed out' \
        -e 'Network is unreachable' -e 'ProxyError' -e 'SSLError' "$log" 2>/dev/null; then
        if [ -n "$lacking" ]; then
            say "The set-up failed: $lacking,"
            say "and the packages could not be downloaded either. It needs wheels that fit, or the network"
            say "once; check the connection (and proxy settings) and run make again."
        else
            say "The set-up failed: the packages could not be downloaded. It needs the network once;"
            say "check the connection (and proxy settings) and run make again."
        fi
    else
        say "The set-up failed${lacking:+: $lacking, and pip failed without it, too}." \
            "The last lines of its log:" ""
        tail -n 12 "$log" | sed 's/^/    /' >&2
        say ""
    fi
    stop "The whole log: $log"
}

: >"$log" 2>/dev/null || stop "The set-up cannot write to this folder: $(pwd)/$state"

if usable; then
    say "Bringing the environment up to date …"
else
    need_python
    say "Setting up (once, about half a minute) …"
    rm -rf "$venv" || stop "The half-made folder $venv cannot be removed."
    # Unpacking the wheel of pip ourselves is ten times as fast as ensurepip, which also compiles it.
    if [ "$pip_wheel" = ensurepip ]; then
        "$python" -m venv --prompt worker-labs "$venv" >>"$log" 2>&1 </dev/null || failed
    else
        "$python" -m venv --without-pip --prompt worker-labs "$venv" >>"$log" 2>&1 </dev/null || failed
    fi
    : >"$venv/.unfinished"
fi

had_stamp=
[ ! -e "$venv/.ready-base" ] || had_stamp=yes
: >"$venv/.unfinished" 2>>"$log" || failed

# The project itself is put on the path by a .pth file: an editable install would have to download
# and run a build tool for the same effect, which costs five seconds.
"$venv/bin/python" -I - "$state/requirements.txt" "${pip_wheel:-}" "$@" >>"$log" 2>&1 <<'END' || failed
import importlib.util
import os
import sys
import sysconfig
import tomllib
import zipfile

requirements, wheel, *extras = sys.argv[1:]
packages = sysconfig.get_path("purelib")
if wheel.endswith(".whl") and not importlib.util.find_spec("pip"):
    zipfile.ZipFile(wheel).extractall(packages)
with open(os.path.join(packages, "worker_labs.pth"), "w") as file:
    file.write(os.path.realpath(os.curdir) + "\n")
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
needs = list(project["dependencies"])
for extra in extras:
    needs += project["optional-dependencies"][extra]
with open(requirements, "w") as file:
    file.write("\n".join(needs) + "\n")
END

# Without compiling: only a part of what is installed is ever imported, and Python compiles that at
# its first use.
pip_install() {
    "$venv/bin/python" -I -m pip install --no-compile --no-input --no-user --progress-bar off \
        --disable-pip-version-check --prefer-binary \
        -c graders/constraints.txt -r "$state/requirements.txt" "$@" >>"$log" 2>&1 </dev/null
}

holds_wheels() {
    for wheel in "$wheelhouse"/*.whl; do
        if [ -f "$wheel" ]; then return 0; fi
    done
    return 1
}

# Nothing of the user's own settings for pip, which may name places in the network. Fails, and says
# why in $lacking, when the wheels do not suffice for this Python and this machine.
install_from_wheelhouse() {
    (
        PIP_CONFIG_FILE=/dev/null
        export PIP_CONFIG_FILE
        pip_install --isolated --no-index --find-links "$wheelhouse"
    ) && return
    version=$("$venv/bin/python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    # A pinned package of which there is no wheel is a conflict in pip's eyes.
    missing=$(sed -n -e '/^ *The user requested (constraint) /{' -e 's///p' -e q -e '}' \
        -e 's/^ERROR: No matching distribution found for \([A-Za-z0-9._-]*\).*/\1/p' "$log")
    if [ -n "$missing" ]; then
        lacking="$wheelhouse has no fitting wheel of $missing for Python $version on this machine"
    else
        lacking="what is in $wheelhouse cannot be installed with Python $version on this machine"
    fi
    return 1
}

install_all() {
    if holds_wheels; then
        if install_from_wheelhouse; then return 0; fi
        if disk_is_full; then return 1; fi
        say "Note: $lacking; fetching everything from the network."
    fi
    pip_install --retries 2
}

if ! install_all; then
    # pip changes nothing before everything is downloaded, and undoes what it could not finish.
    [ -z "$had_stamp" ] || rm -f "$venv/.unfinished"
    failed
fi

for stamp in base "$@"; do
    pwd -P >"$venv/.ready-$stamp" || failed
done
rm -f "$venv/.unfinished"
