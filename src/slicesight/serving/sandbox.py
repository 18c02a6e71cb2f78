"""What may the process that reads a stranger's file still do? Its own folder and the programs it is made of, no more.

Each step is what this kernel and this user allow: where one is not to be had (an old kernel, a container that forbids
it) the others still hold, and `what_is_shut` says which do. Landlock: https://docs.kernel.org/userspace-api/landlock.html
seccomp: https://docs.kernel.org/userspace-api/seccomp_filter.html; numbers of the calls: the kernel's
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import site
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls, the same on every processor
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVILEGES = 38
_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many kinds of access to files each version of Landlock knows; one more since the fifth."""
_NETWORK_ABI, _SCOPE_ABI = 4, 6
_STEP_BACK = 5
"""Of a process's niceness: reading a scan takes no core from answers."""
PARTS = ("files", "network", "calls")
"""What can be shut. calls: of the kernel's services those that no reading of a file needs."""
_NEEDLESS = {  # name: number on x86_64, on aarch64
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "acct": (163, 89),
    **{name: (425 + place, 425 + place) for place, name in enumerate(("io_uring_setup", "io_uring_enter"))},
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
}
_SOCKET = (41, 198)
_AUDIT_ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refused with "not permitted"
_OTHER_NUMBERS = 0x40000000
"""From here on x86_64 has its calls a second time."""
_PROGRAMS = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_FACTS = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu", "/sys/fs/cgroup")


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Instruction(ctypes.Structure):
    _fields_ = (
        *(("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8)),
        *(("if_false", ctypes.c_uint8), ("value", ctypes.c_uint32)),
    )


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def limit_resources(*, memory_bytes: int, cpu_seconds: int, file_bytes: int) -> None:
    """Memory, time at work and the size of a file; behind whoever else wants a core, and first to go without memory."""
    os.nice(_STEP_BACK)
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),  # a core file would hold the scan
    ):
        allowed = resource.getrlimit(kind)[1]
        limit = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
        resource.setrlimit(kind, (limit, limit))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


@functools.cache
def what_is_shut() -> frozenset[str]:
    """Which of `PARTS` this machine lets `confine` shut, tried out once in a process of its own."""
    command = [sys.executable, "-I", __file__, os.devnull]
    tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    return frozenset(PARTS) & frozenset(tried.stdout.split())


def confine(folder: Path, *, needs_network: bool, may_read: Iterable[str] = ()) -> frozenset[str]:
    """Shut this process in, for good; before its first thread -> which of `PARTS` are shut.

    Args:
        folder: where it may write. may_read: further places that it may read.
        needs_network: it fetches from an archive, and so may also read certificates, /etc and its user's .netrc.
    """
    if not sys.platform.startswith("linux"):
        return frozenset()
    system = ctypes.CDLL(None, use_errno=True)
    shut = set()
    if not needs_network and (system.unshare(_NEW_NETWORK) == 0 or system.unshare(_NEW_USER | _NEW_NETWORK) == 0):
        shut.add("network")
    readable = [
        *_PROGRAMS,
        *_FACTS,
        sys.prefix,
        sys.base_prefix,
        *site.getsitepackages(),
        *filter(None, sys.path),
        *may_read,
    ]
    if needs_network:
        readable += ["/etc", "/run/systemd/resolve", os.environ.get("NETRC", "")]
        readable += [os.environ.get(name, "") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
        readable += [os.path.expanduser(f"~/{name}") for name in (".netrc", "_netrc")]
    if _restrict(system, readable, writable=[str(folder), *_DEVICES], with_network=needs_network):
        shut.add("files")
    if _forbid_calls(system, with_network=needs_network):
        shut |= {"calls"} if needs_network else {"calls", "network"}  # no socket, no network
    return frozenset(shut)


def leave_with_parent() -> None:
    """End when stdin closes, which says that the server is gone; for a thread of its own."""
    sys.stdin.read()
    os._exit(1)


def _restrict(system: ctypes.CDLL, readable: Iterable[str], *, writable: Iterable[str], with_network: bool) -> bool:
    """Landlock: nothing but these places, and no TCP."""
    abi = system.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return False
    every = (1 << _RIGHTS_OF_ABI.get(abi, 16)) - 1
    rules = _Ruleset(
        files=every,
        network=3 if abi >= _NETWORK_ABI and not with_network else 0,
        scoped=3 if abi >= _SCOPE_ABI else 0,  # no abstract sockets, no signals to others
    )
    size = 24 if abi >= _SCOPE_ABI else 16 if abi >= _NETWORK_ABI else 8
    ruleset = system.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        for paths, allowed in ((readable, _EXECUTE | _READ_FILE | _READ_DIR), (writable, every & ~_EXECUTE)):
            for path in paths:
                _allow(system, ruleset, path, allowed)
        is_final: bool = system.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
        return is_final and bool(system.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _forbid_calls(system: ctypes.CDLL, *, with_network: bool) -> bool:
    """seccomp: what reads a file starts no program, looks into no other process and changes nothing of the machine."""
    machine = os.uname().machine
    if machine not in _AUDIT_ARCHES or sys.maxsize < 2**32:
        return False
    column, arch = _AUDIT_ARCHES[machine]
    numbers = [found[column] for found in (*_NEEDLESS.values(), *([] if with_network else [_SOCKET]))]
    count = len(numbers)
    program = [
        (_LOAD, 0, 0, 4),  # of `struct seccomp_data` the architecture
        (_IF_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call's number
        (_IF_AT_LEAST, count + 1, 0, _OTHER_NUMBERS),
        *((_IF_EQUAL, count - place, 0, number) for place, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    instructions = (_Instruction * len(program))(*(_Instruction(*one) for one in program))
    found = _Filter(length=len(program), instructions=instructions)
    if system.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(system.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(found), 0, 0) == 0)


def _allow(system: ctypes.CDLL, ruleset: int, path: str, allowed: int) -> None:
    """One place; nothing happens where there is none of that name."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        of_a_file = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14  # cut short
        rule = _PathRule(allowed=allowed if os.path.isdir(path) else allowed & of_a_file, parent=place)
        system.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(place)


if __name__ == "__main__":
    print(*confine(Path(sys.argv[1]), needs_network=False))
