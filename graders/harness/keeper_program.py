"""The keeper's own program: it starts every process of a run, and ends them all.

`keeper.py` starts it as `python -I keeper_program.py FD`, where FD is one end of a socket pair. It
lives in a session of its own and ignores what Ctrl-C and a closed terminal send, so that it
outlives the grader by the moment it needs: at the end of its input, whatever ended the grader, it
kills what still runs, removes containers and folders, and exits. It uses the standard library
alone (psutil only where there is no /proc) and one thread, and never waits for anything that a
student's process decides.

How a process is known to belong to whom:

- On Linux the keeper is a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): a process whose parent
  dies becomes the keeper's child, setsid and double fork or not. So everything that was ever
  started is below the keeper, and is found by walking down from it.
- An orphan that comes up that way is known by the number that each process started here has in its
  hard limit on file sizes: limits are inherited, whatever a process does to its environment, and
  only root can raise them. Failing that, by WORKER_LABS_MARKER in the environment it began with.
- Elsewhere (macOS), by its parent, its session and the marker in its environment, through psutil.

Messages are JSON with a length of four bytes before it, as `keeper.py` writes them.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import gc
import json
import os
import resource
import selectors
import signal
import socket
import stat
import struct
import sys
import time
from typing import Any

MARKER = "WORKER_LABS_MARKER"
LINUX = sys.platform.startswith("linux")
TAG = 1 << 62  # hard limits on file sizes from here on name a process that has no such limit
MAX_FDS = 64

WATCH_EVERY = 0.1  # seconds between two looks at memory and the number of processes
STORM_EVERY = 0.02  # seconds between two looks at how many processes the machine has
STORM = 30  # so many more of them than at the last full look, and the next one is due at once
WATCH_EVERY_PORTABLE = 0.3  # the same where a look means asking about every process there is
FOLDERS_EVERY = 0.5  # seconds between two looks at how full the disk is
FOLDERS_AT_LATEST = 5.0  # a folder is measured that often even if the disk does not fill
FOLDERS_TIME = 0.05  # seconds that measuring a folder may take; what was found so far counts
KILL_EVERY = 0.005  # seconds between two looks at whether the killed are gone
SERVERS_TIME = 10.0  # seconds that a server has to end by itself at the end of the run
END_TIME = 300.0  # seconds after which even those are given up that the kernel cannot end
ROOM = 700  # processes and threads beyond what the machine has now; see Program.process_limit

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
IPC_RMID = 0
POSTGRES_FOLDER = "wl-pg-"  # what the folder of an embedded PostgreSQL is called


class Child:
    """A process that was started for the grader."""

    def __init__(self, pid: int, number: int, marker: str, limits: dict[str, Any] | None) -> None:
        self.pid = pid
        self.number = number
        self.marker = marker
        self.limits = limits


class Watch:
    """The caps on one marker, and what is needed to look at them cheaply."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self.limits = limits
        self.count = 0  # processes at the last look
        self.measured_at = 0.0
        self.looked_at = time.monotonic()
        self.free = free_space(limits)


class Stopped:
    """The processes that were stopped in order to be killed."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.groups: set[int] = set()
        self.own = os.getpgrp()

    def add(self, pid: int) -> bool:
        """Stop a process and its group; whether it is a new one."""
        if pid in self.pids:
            return False
        self.pids.add(pid)
        with contextlib.suppress(OSError):
            group = os.getpgid(pid)
            if group not in self.groups and group != self.own:
                self.groups.add(group)
                # A group is stopped in one go, with those that are just being forked.
                os.killpg(group, signal.SIGSTOP)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGSTOP)
        return True

    def resume(self) -> None:
        """Let them all go on."""
        for pid in self.pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill them all."""
        for send, targets in ((os.killpg, self.groups), (os.kill, self.pids)):
            for target in targets:
                with contextlib.suppress(OSError):
                    send(target, signal.SIGKILL)


# Which processes there are: pid -> (marker, resident bytes)

Living = dict[int, tuple[str, int]]


class LinuxTable:
    """The processes below the keeper, from /proc."""

    watch_every = WATCH_EVERY
    storm_every = STORM_EVERY

    def __init__(self, children: dict[int, Child]) -> None:
        self.children = children  # by pid, as long as they are not reaped
        self.markers: dict[int, str] = {}  # by the number in the limit on file sizes
        self.orphans: dict[int, str] = {}  # what was found out about the keeper's other children
        self.page = os.sysconf("SC_PAGE_SIZE")
        self.me = os.getpid()
        self.walks = os.path.exists(f"/proc/self/task/{self.me}/children")

    def living(self, marker: str | None = None, most: int = 1 << 20) -> Living:
        """The living processes (of one marker, or all), at most about so many of each marker."""
        below = self.children_of if self.walks else self.scan()
        found: Living = {}
        seen: set[int] = set()
        counts: collections.Counter[str] = collections.Counter()
        for top in below(self.me):
            belongs = self.marker_of(top)
            if marker is not None and belongs != marker:
                continue
            todo = [top]
            while todo and counts[belongs] <= most:
                pid = todo.pop()
                if pid in seen:
                    continue
                seen.add(pid)
                fields = stat_fields(pid)
                if fields is None:
                    continue
                if fields[0] not in "ZX" or int(fields[17]) > 1:
                    counts[belongs] += 1
                    found[pid] = (belongs, int(fields[21]) * self.page)
                todo.extend(below(pid))
        return found

    def stop(self, marker: str | None, spared: frozenset[str], stopped: Stopped) -> bool:
        """Stop the processes (of one marker, or all but the spared); whether there were new ones.

        Each is stopped before its children are looked for, so that those who fork without end do
        not outrun the walk.
        """
        below = self.children_of if self.walks else self.scan()
        new, seen = False, set()
        for top in below(self.me):
            belongs = self.marker_of(top)
            if belongs in spared or (marker is not None and belongs != marker):
                continue
            todo = [top]
            while todo:
                pid = todo.pop()
                if pid not in seen:
                    seen.add(pid)
                    new = stopped.add(pid) or new
                    todo.extend(below(pid))
        return new

    def children_of(self, pid: int) -> list[int]:
        """The children of a process; the kernel keeps them by the thread that forked them."""
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except OSError:
            return []
        pids: list[int] = []
        for task in tasks:
            pids.extend(map(int, read_proc(f"/proc/{pid}/task/{task}/children").split()))
        return pids

    def scan(self) -> Any:
        """Parents and children from a look at every process, for a kernel without `children`."""
        by_parent: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and (fields := stat_fields(int(name))) is not None:
                by_parent.setdefault(int(fields[1]), []).append(int(name))
        return lambda pid: by_parent.get(pid, [])

    def marker_of(self, pid: int) -> str:
        """Whose a child of the keeper is."""
        child = self.children.get(pid)
        if child is not None:
            return child.marker
        known = self.orphans.get(pid)
        if known is None:
            known = self.find_marker(pid)
            if known:
                self.orphans[pid] = known
        return known

    def find_marker(self, pid: int) -> str:
        """Whose an orphan is; an empty string if nothing tells."""
        _, _, rest = read_proc(f"/proc/{pid}/limits").partition(b"\nMax file size")
        hard = rest.partition(b"\n")[0].split()
        if len(hard) == 3 and hard[1].isdigit() and (known := self.markers.get(int(hard[1]))):
            return known
        for entry in read_proc(f"/proc/{pid}/environ").split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == MARKER.encode() and os.fsdecode(value) in self.markers.values():
                return os.fsdecode(value)
        return ""

    def forget(self, pid: int) -> None:
        """A child was reaped: its pid may come again."""
        self.orphans.pop(pid, None)


class PortableTable:
    """The processes that were started here, by parent, session and environment, from psutil."""

    watch_every = storm_every = WATCH_EVERY_PORTABLE

    def __init__(self, children: dict[int, Child]) -> None:
        import psutil

        self.psutil = psutil
        self.children = children
        self.markers: dict[int, str] = {}
        self.sessions: dict[int, str] = {}  # the session of each that was started, for good
        self.known: dict[tuple[int, float], str] = {}

    def stop(self, marker: str | None, spared: frozenset[str], stopped: Stopped) -> bool:
        """As in LinuxTable; here the walk comes first, and who forks meanwhile is found next."""
        living = self.living(marker)
        new = [stopped.add(pid) for pid, (owner, _) in living.items() if owner not in spared]
        return any(new)

    def living(self, marker: str | None = None, most: int = 1 << 20) -> Living:
        """The living processes (of one marker, or all)."""
        processes, parents = {}, {}
        for process in self.psutil.process_iter():
            with contextlib.suppress(self.psutil.Error):
                parents[process.pid] = process.ppid()
                processes[process.pid] = process
        belongs = {pid: child.marker for pid, child in self.children.items()}
        for pid, process in processes.items():
            if pid not in belongs and (found := self.find_marker(process)):
                belongs[pid] = found
        found_any = True
        while found_any:
            below = {p: belongs[up] for p, up in parents.items() if up in belongs}
            new = {p: m for p, m in below.items() if p not in belongs}
            belongs.update(new)
            found_any = bool(new)
        result: Living = {}
        for pid, owner in belongs.items():
            if pid in processes and (marker is None or owner == marker):
                with contextlib.suppress(self.psutil.Error):
                    if processes[pid].status() != self.psutil.STATUS_ZOMBIE:
                        result[pid] = (owner, processes[pid].memory_info().rss)
        return result

    def find_marker(self, process: Any) -> str:
        """Whose a process is, by its session or its environment; empty if it is nobody's."""
        if process.pid == os.getpid():
            return ""
        with contextlib.suppress(OSError):
            session = self.sessions.get(os.getsid(process.pid))
            if session:
                return session
        key = (process.pid, process.create_time())
        if key not in self.known:
            mark = ""
            with contextlib.suppress(self.psutil.Error, OSError, SystemError):
                mark = process.environ().get(MARKER, "")
            self.known[key] = mark if mark in self.markers.values() else ""
        return self.known[key]

    def forget(self, pid: int) -> None:
        """A child was reaped. Its session may live on, so it stays known."""


def read_proc(path: str) -> bytes:
    """A file of /proc, or nothing if the process is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        whole = b""
        while part := os.read(fd, 65536):
            whole += part
        return whole
    except OSError:
        return b""
    finally:
        os.close(fd)


def stat_fields(pid: int) -> list[str] | None:
    """/proc/PID/stat from the state on (field 3 in proc(5)), or None if the process is gone."""
    text = read_proc(f"/proc/{pid}/stat")
    if not text:
        return None
    return text[text.rindex(b")") + 2 :].decode().split()


def processes_here() -> int:
    """Processes and threads on this machine, from proc_loadavg(5); 0 where nothing tells."""
    fields = read_proc("/proc/loadavg").split()
    return int(fields[3].partition(b"/")[2]) if len(fields) > 3 else 0


# How full folders are


def free_space(limits: dict[str, Any]) -> int:
    """Free bytes on the file systems of the watched folders together."""
    free: dict[int, int] = {}
    for path, _ in limits.get("folders", ()):
        with contextlib.suppress(OSError):
            where = os.statvfs(path)
            free[os.stat(path).st_dev] = where.f_bfree * where.f_frsize
    return sum(free.values())


def folder_bytes(path: str, seconds: float = FOLDERS_TIME) -> int:
    """Bytes on disk below a folder: what was found in that time. Links are not followed."""
    deadline = time.monotonic() + seconds
    total, todo = 0, [path]
    while todo and time.monotonic() < deadline:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        info = entry.stat(follow_symlinks=False)
                        total += info.st_blocks * 512
                        if stat.S_ISDIR(info.st_mode):
                            todo.append(entry.path)
        except OSError:
            continue
    return total


def remove_segment(folder: str) -> None:
    """Remove the segment of shared memory that a PostgreSQL which was killed has left.

    Its number stands in a file that PostgreSQL removes when it ends in order. The segment is a few
    bytes, but nobody else would ever remove it.
    """
    if not LINUX or not os.path.basename(folder).startswith(POSTGRES_FOLDER):
        return
    with contextlib.suppress(Exception):  # a submission may have put anything in its place
        fd = os.open(os.path.join(folder, "data", "postmaster.pid"),
                     os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            text = os.read(fd, 4096) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
        key, number = text.split(b"\n")[6].split()
        for row in read_proc("/proc/sysvipc/shm").splitlines():
            fields = row.split()  # sysvipc(5): key, shmid, perms, size, cpid, lpid, nattch
            if fields[:2] == [key, number] and fields[6] == b"0":
                import ctypes

                ctypes.CDLL(None).shmctl(int(number), IPC_RMID, None)


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it, also what was made unwritable."""
    import shutil

    remove_segment(path)

    def again(function: Any, name: str, _: Any) -> None:
        with contextlib.suppress(OSError):
            if name != path:  # what is above the folder is not ours
                os.chmod(os.path.dirname(name), 0o700)
            if not os.path.islink(name):
                os.chmod(name, 0o700)
            if os.path.isdir(name) and not os.path.islink(name):
                shutil.rmtree(name, ignore_errors=True)
            else:
                os.unlink(name)

    shutil.rmtree(path, onerror=again)


# Ending processes


class Kill:
    """Ends every process of a marker (None: of all but those of `spared`), until none is left."""

    def __init__(
        self, marker: str | None, request: int | None = None, spared: frozenset[str] = frozenset()
    ) -> None:
        self.marker = marker
        self.request = request
        self.spared = spared
        self.again_at = 0.0

    def go(self, table: Any) -> bool:
        """One round. Returns whether none was left.

        All are stopped first, again and again until no new one turns up, and killed then: what is
        stopped can neither fork nor see its children die. Whoever is dead but not reaped counts
        as left; the keeper reaps them as soon as their parents are gone.
        """
        stopped = Stopped()
        for _ in range(100):
            if not table.stop(self.marker, self.spared, stopped):
                break
        stopped.kill()
        self.again_at = time.monotonic() + KILL_EVERY
        return not stopped.pids


# The program


class Program:
    """Takes orders from the grader, and cleans up after it."""

    def __init__(self, control: socket.socket, portable: bool) -> None:
        self.control = control
        self.children: dict[int, Child] = {}
        self.number = 0
        self.prctl = None
        if LINUX and not portable:
            import ctypes

            self.prctl = ctypes.CDLL(None, use_errno=True).prctl
            self.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self.prctl(PR_SET_NAME, b"wl-keeper", 0, 0, 0)
        self.table: Any = (PortableTable if portable else LinuxTable)(self.children)
        self.watches: dict[str, Watch] = {}
        self.watch_at = 0.0
        self.storm_at = 0.0
        self.processes = processes_here()  # at the last full look
        self.kills: list[Kill] = []
        self.folders: list[str] = []
        self.containers: list[str] = []
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.incoming = bytearray()
        self.fds: collections.deque[int] = collections.deque()
        self.outgoing = bytearray()
        self.open = True
        self.limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.room = self.process_limit()
        self.hurried = False
        if LINUX:
            # As root, be given a turn before those that are watched; they do not inherit that.
            with contextlib.suppress(OSError, AttributeError):
                os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, 0, -20)
        wake, self.waker = socket.socketpair()
        wake.setblocking(False)
        self.waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGUSR1", "SIGUSR2"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        # What is ignored stays so in a new program, so each of these is set back before one starts.
        self.changed = [
            s for s in signal.valid_signals() if signal.getsignal(s) is not signal.SIG_DFL
        ]
        control.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ, self.read)
        self.selector.register(wake, selectors.EVENT_READ, lambda _: drain(wake))

    def run(self) -> None:
        """Serve until the grader has gone, then end everything."""
        self.tell(event="ready")
        while self.open:
            for key, mask in self.selector.select(self.next_look()):
                key.data(mask)
            self.look()
        self.end()

    def next_look(self) -> float | None:
        """Seconds until something is to be done unasked; None: nothing is."""
        due = [kill.again_at for kill in self.kills]
        if self.watches:
            due.append(min(self.watch_at, self.storm_at))
        return max(0.0, min(due) - time.monotonic()) if due else None

    def look(self) -> None:
        """Reap who has ended, go on with who is to be killed, and watch the caps."""
        self.reap()
        now = time.monotonic()
        for kill in list(self.kills):
            if kill.again_at > now:
                continue
            none_left = kill.go(self.table)
            self.reap()
            if none_left:
                self.kills.remove(kill)
                if kill.request is not None:
                    self.tell(id=kill.request)
        if not self.watches:
            return
        if now >= self.storm_at:
            self.storm_at = now + self.table.storm_every
            if processes_here() > self.processes + STORM:
                self.hurry(True)
                self.watch_at = now
        if now >= self.watch_at:
            self.watch()
            if not self.kills:
                self.hurry(False)
            self.processes = processes_here()
            self.watch_at = time.monotonic() + self.table.watch_every

    # Talking to the grader

    def hurry(self, on: bool) -> None:
        """As root, be sure to get a turn among any number of processes that fork without end.

        Only in such a storm: some kernels let a real-time process rest for most of each second.
        """
        if LINUX and on != self.hurried:
            self.hurried = on
            policy = os.SCHED_RR if on else os.SCHED_OTHER
            with contextlib.suppress(OSError, AttributeError):
                os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(int(on)))

    def read(self, mask: int) -> None:
        """Take what has come; the end of the input is the end of the grader."""
        if mask & selectors.EVENT_WRITE:
            self.write()
        if not mask & selectors.EVENT_READ:
            return
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 1 << 18, MAX_FDS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        for fd in fds:
            os.set_inheritable(fd, False)
        self.fds.extend(fds)
        if not data:
            self.open = False
            return
        self.incoming += data
        while self.open and len(self.incoming) >= 4:
            (length,) = struct.unpack_from("!I", self.incoming)
            if len(self.incoming) < 4 + length:
                break
            order = json.loads(bytes(self.incoming[4 : 4 + length]))
            del self.incoming[: 4 + length]
            self.obey(order)

    def obey(self, order: dict[str, Any]) -> None:
        """Do what the grader asks for."""
        kind, request = order["op"], order.get("id")
        if kind == "spawn":
            self.spawn(order)
        elif kind == "signal":
            self.tell(id=request, sent=self.signal(order["pid"], order["signal"], order["group"]))
        elif kind == "kill":
            self.kills.append(Kill(order["marker"], request))
        elif kind == "living":
            self.tell(id=request, pids=sorted(self.table.living(order["marker"])))
        elif kind == "tidy":
            self.folders.append(order["path"])
        elif kind == "container":
            self.containers.append(order["label"])

    def tell(self, **message: Any) -> None:
        """Send a message; never waits for the grader to read it."""
        text = json.dumps(message).encode()
        self.outgoing += struct.pack("!I", len(text)) + text
        self.write()

    def write(self) -> None:
        """Send what there is to send, as far as the socket takes it."""
        try:
            while self.outgoing:
                del self.outgoing[: self.control.send(self.outgoing)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # the grader has gone; the end of the input says so too
            self.outgoing.clear()
        if self.open:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
            self.selector.modify(self.control, wanted, self.read)

    # Processes

    def spawn(self, order: dict[str, Any]) -> None:
        """Start a process, and say its pid or why it could not be started."""
        streams = [self.fds.popleft() if given else None for given in order["fds"]]
        self.number += 1
        try:
            read, write = os.pipe()
            try:
                try:
                    pid = os.fork()
                    if pid == 0:
                        self.become(order, streams, write)
                finally:
                    os.close(write)
                trouble = b""
                while part := os.read(read, 65536):  # ends when the new program begins
                    trouble += part
            finally:
                os.close(read)
        except OSError as error:
            self.tell(id=order["id"], stage="fork", errno=error.errno)
            return
        finally:
            for fd in streams:
                if fd is not None:
                    os.close(fd)
        if trouble:
            os.waitpid(pid, 0)
            self.tell(id=order["id"], **json.loads(trouble))
            return
        child = Child(pid, self.number, order["marker"], order["limits"])
        self.children[pid] = child
        if child.limits is not None:
            self.watches[child.marker] = Watch(child.limits)
        if isinstance(self.table, PortableTable):
            self.table.sessions[pid] = child.marker
        self.table.markers[self.file_limits(child.limits)[1]] = child.marker
        self.tell(id=order["id"], pid=pid)

    def file_limits(self, limits: dict[str, Any] | None) -> tuple[int, int]:
        """Soft and hard limit on a file's size. The hard one has this process's number in it."""
        soft, hard = self.limit
        if limits and limits.get("disk_bytes"):
            soft = limits["disk_bytes"]
            wanted = soft + self.number
        else:
            wanted = TAG + self.number
        if hard != resource.RLIM_INFINITY and hard < wanted:  # only root may go above it
            wanted = hard
        if soft == resource.RLIM_INFINITY or soft > wanted:
            soft = wanted
        return soft, wanted

    def process_limit(self) -> int:
        """The most processes and threads that this user may have; 0: leave it as it is.

        This is no cap: it counts all processes of the user, and does not count for root. It is far
        off, and only keeps a machine alive on which processes multiply faster than they are ended.
        """
        here = processes_here()
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        return here + ROOM if here and (hard == resource.RLIM_INFINITY or here + ROOM < hard) else 0

    def become(self, order: dict[str, Any], streams: list[int | None], report: int) -> None:
        """In the new process: become the program. Never returns."""
        stage = "session"
        try:
            os.setsid()
            limits = order["limits"]
            stage = "limits"
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_FSIZE, self.file_limits(limits))
            if self.room and limits is not None:
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(resource.RLIMIT_NPROC, (self.room, self.room))
            if LINUX and limits is not None:
                # Should memory run out, the kernel ends a student's process before anything else.
                with contextlib.suppress(OSError):
                    score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
                    os.write(score, b"900")
            stage = "user"
            if order["user"] is not None:
                import pwd

                who = pwd.getpwnam(order["user"])
                os.initgroups(who.pw_name, who.pw_gid)
                os.setgid(who.pw_gid)
                os.setuid(who.pw_uid)
            stage = "cwd"
            os.chdir(order["cwd"])
            stage = "streams"
            os.dup2(self.null, 0)
            os.dup2(self.null if streams[0] is None else streams[0], 1)
            os.dup2(self.null if streams[1] is None else streams[1], 2)
            if self.prctl is not None:
                # Should somebody kill the keeper itself, its children go with it.
                self.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            signal.set_wakeup_fd(-1)
            for number in self.changed:
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            stage = "program"
            env = {**order["env"], MARKER: order["marker"]}
            execute(order["argv"], env)
        except BaseException as error:
            number = getattr(error, "errno", None)
            said = json.dumps({"stage": stage, "errno": number, "text": str(error)})
            os.write(report, said.encode())
        finally:
            os._exit(127)

    def signal(self, pid: int, number: int, group: bool) -> bool:
        """Send a signal to a process that was started here; False if it has ended."""
        # As long as it is not reaped, its pid is nobody else's.
        if pid not in self.children:
            return False
        try:
            (os.killpg if group else os.kill)(pid, number)
        except OSError:
            return False
        return True

    def reap(self) -> None:
        """Take note of everybody who has ended; who is being killed is looked at again then."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.table.forget(pid)
            for kill in self.kills:
                kill.again_at = 0.0
            if self.children.pop(pid, None) is not None:
                code = os.waitstatus_to_exitcode(status)
                self.tell(event="exit", pid=pid, code=code)

    # Caps

    def watch(self) -> None:
        """Compare what each marker uses with what it may; end who has gone over."""
        used: dict[str, dict[int, int]] = {}  # marker -> pid -> resident bytes
        most = max(watch.limits.get("processes") or 1 << 20 for watch in self.watches.values())
        for pid, (marker, resident) in self.table.living(most=most).items():
            used.setdefault(marker, {})[pid] = resident
        for marker, watch in list(self.watches.items()):
            if marker not in used:
                if all(child.marker != marker for child in self.children.values()):
                    del self.watches[marker]
                continue
            limits = watch.limits
            count = len(used[marker])
            if count - watch.count > limits.get("processes", 1 << 20) / 4:
                count = self.count_stopped(marker)
            watch.count = count
            for cap, amount, limit in (
                ("memory", sum(used[marker].values()), limits.get("memory_bytes")),
                ("processes", count, limits.get("processes")),
                ("disk", self.disk_use(watch), limits.get("disk_bytes")),
            ):
                # A file may not grow beyond the limit at all, so reaching it counts for disks.
                if limit and (amount > limit or (cap == "disk" and amount >= limit)):
                    del self.watches[marker]
                    self.tell(event="cap", marker=marker, cap=cap, amount=amount, limit=limit)
                    self.kills.append(Kill(marker))
                    break

    def count_stopped(self, marker: str) -> int:
        """How many living processes a marker has that grows fast: counted while they stand still.

        At the next look there may be thousands, and no turn left for the keeper to end them.
        """
        stopped = Stopped()
        for _ in range(100):
            if not self.table.stop(marker, frozenset(), stopped):
                break
        count = len(self.table.living(marker))
        if count <= self.watches[marker].limits["processes"]:
            stopped.resume()
        return count

    def disk_use(self, watch: Watch) -> int:
        """Bytes written to the watched folders, measured only when there is a reason to."""
        limits, now = watch.limits, time.monotonic()
        if not limits.get("disk_bytes") or now - watch.looked_at < FOLDERS_EVERY:
            return 0
        watch.looked_at = now
        free = free_space(limits)
        # Much less free space than before is a sign, whoever it was; measuring finds out.
        sign = watch.free - free >= limits["disk_bytes"] / 8
        if not sign and now - watch.measured_at < FOLDERS_AT_LATEST:
            watch.free = max(watch.free, free)
            return 0
        total = 0
        for path, before in limits.get("folders", ()):
            total += max(0, folder_bytes(path) - before)
        watch.free, watch.measured_at = free, time.monotonic()
        return total

    # The end

    def end(self) -> None:
        """End every process, remove containers and folders."""
        signal.set_wakeup_fd(-1)
        deadline = time.monotonic() + END_TIME
        # Processes without limits are the kit's own servers. PostgreSQL is told to end at once
        # (SIGQUIT) and not killed, as it would leave shared memory behind.
        servers = {pid for pid, child in self.children.items() if child.limits is None}
        for pid in servers:
            self.signal(pid, signal.SIGQUIT, False)
            self.signal(pid, signal.SIGCONT, False)
        markers = {self.children[pid].marker for pid in servers}
        self.clear(frozenset(markers), deadline)
        patience = time.monotonic() + SERVERS_TIME
        while servers & self.children.keys() and time.monotonic() < patience:
            time.sleep(KILL_EVERY)
            self.reap()
        self.clear(frozenset(), deadline)
        for label in self.containers:
            remove_containers(label)
        for path in self.folders:
            with contextlib.suppress(Exception):
                remove_folder(path)
        with contextlib.suppress(OSError):
            self.control.settimeout(1.0)
            self.control.sendall(self.outgoing)

    def clear(self, spared: frozenset[str], deadline: float) -> None:
        """Kill everybody whose marker is not spared, until none is left or the time is over."""
        kill = Kill(None, spared=spared)
        while time.monotonic() < deadline:
            none_left = kill.go(self.table)
            self.reap()
            if none_left:
                return
            time.sleep(KILL_EVERY)


def execute(argv: list[str], env: dict[str, str]) -> None:
    """Replace this process by the program. Raises OSError if that cannot be done."""
    program = argv[0]
    tries = [program]
    if "/" not in program:
        tries = [os.path.join(d or ".", program) for d in env.get("PATH", os.defpath).split(":")]
    failed: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in tries:
        try:
            os.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            if "/" in program or os.path.lexists(path):
                failed = error
        except OSError as error:
            if failed.errno == errno.ENOENT:
                failed = error
    raise failed


def drain(sock: socket.socket) -> None:
    """Read away what is there."""
    with contextlib.suppress(OSError):
        while sock.recv(4096):
            pass


def remove_containers(label: str) -> None:
    """Remove the containers with this label, and images, if an engine answers; best effort."""
    import shutil
    import subprocess

    with contextlib.suppress(Exception):
        docker = shutil.which("docker")
        if docker is None:
            import docker as client  # the Python package, where testcontainers is installed

            for container in client.from_env(timeout=20).containers.list(
                all=True, filters={"label": label}
            ):
                with contextlib.suppress(Exception):
                    container.remove(force=True, v=True)
            return
        # A busy engine takes long over an image.
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 120}
        listed = subprocess.run(
            [docker, "ps", "-aq", "--filter", f"label={label}"], stdout=subprocess.PIPE, **quiet
        )
        names = listed.stdout.decode().split()
        if names:
            subprocess.run([docker, "rm", "-f", "-v", *names], stdout=subprocess.DEVNULL, **quiet)
        for _ in range(5):  # an image goes only after those that were built upon it
            listed = subprocess.run(
                [docker, "images", "-aq", "--filter", f"label={label}"],
                stdout=subprocess.PIPE, **quiet,
            )  # fmt: skip
            names = listed.stdout.decode().split()
            if not names:
                break
            subprocess.run([docker, "rmi", "-f", *names], stdout=subprocess.DEVNULL, **quiet)


def kill_everything_marked(prefix: str) -> None:
    """Without a keeper: kill every process whose marker begins so. The last resort, by psutil."""
    import psutil

    for _ in range(20):
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError, SystemError):
                if process.environ().get(MARKER, "").startswith(prefix):
                    found.append(process)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not found:
            return
        psutil.wait_procs(found, timeout=1)


def main(arguments: list[str]) -> None:
    """`keeper_program.py FD [FOLDER]`: with the folder that holds psutil, work without /proc."""
    control = socket.socket(fileno=int(arguments[0]))
    control.set_inheritable(False)
    # A collection would touch, and so copy, the memory that it shares with what it forks.
    gc.disable()
    program = None
    try:
        sys.path.extend(arguments[1:])
        program = Program(control, portable=bool(arguments[1:]))
        program.run()
    except BaseException:
        import traceback

        text = json.dumps({"event": "broken", "text": traceback.format_exc()}).encode()
        with contextlib.suppress(OSError):
            control.settimeout(1.0)
            control.sendall(struct.pack("!I", len(text)) + text)
        if program is not None:
            program.end()


if __name__ == "__main__":
    main(sys.argv[1:])
