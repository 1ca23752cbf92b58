"""A filter in the Linux kernel that refuses system calls for good, for this process and whatever it starts.

No connection, no new file or change of one, nothing else that outlives it, no other program, no hand on another process.
Reading files stays allowed: Python and pdfium load modules and fonts late. A call that is refused fails with EPERM, as if
the user lacked the right.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

_SET_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IS, _IS_AT_LEAST, _HAS_ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
"""Where a call's number, its kind of machine and its arguments (8 bytes each) lie in what the filter sees."""
_MACHINES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_OTHER_NUMBERS: Final = 0x40000000
"""From here on x86 numbers its calls anew (x32)."""
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CLONE_THREAD: Final = 0x10000

# Call: its number on x86_64 and on aarch64, None where there is none.
# fmt: off
_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "sendto": (44, 206),
    "sendmsg": (46, 211), "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "creat": (85, None), "truncate": (76, 45), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None),
    "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88),
    "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "mount": (165, 40),
    "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "setpriority": (141, 140),
}
# fmt: on
_ABSENT: Final = {"clone3": (435, 435), "openat2": (437, 437), "io_uring_setup": (425, 425)}
"""A filter cannot see what these are asked for; the C library has older calls for a system that lacks them."""
_OPEN: Final = {"open": ((2, None), 1), "openat": ((257, 56), 2)}
"""With the place of their flags among the arguments."""
_CLONE: Final = (56, 220)
_ON_ITSELF: Final = {"kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261)}
"""The first argument is a process, which must be this one."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def refuse() -> bool:
    """Put the filter on this thread and those it starts; False where this system cannot."""
    machine = platform.machine()
    if machine not in _MACHINES or struct.calcsize("P") != 8:
        return False
    code = _program(machine, os.getpid())
    program = _Program(len(code) // 8, code)
    control = ctypes.CDLL(None, use_errno=True).prctl
    if control(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(control(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0)


def _program(machine: str, process: int) -> bytes:
    """The filter for a kind of machine, as instructions of 8 bytes."""
    at = list(_MACHINES).index(machine)
    steps = [(_LOAD, 0, 0, _MACHINE), (_IS, 1, 0, _MACHINES[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    steps += [(_IS_AT_LEAST, 0, 1, _OTHER_NUMBERS), _failing(errno.EPERM)]
    steps += [step for numbers in _REFUSED.values() for step in _if(numbers[at], [_failing(errno.EPERM)])]
    steps += [step for numbers in _ABSENT.values() for step in _if(numbers[at], [_failing(errno.ENOSYS)])]
    for numbers, place in _OPEN.values():
        steps += _if(numbers[at], [_argument(place), (_HAS_ANY, 0, 1, _WRITES), _failing(errno.EPERM), _allowing()])
    steps += _if(_CLONE[at], [_argument(0), (_HAS_ANY, 1, 0, _CLONE_THREAD), _failing(errno.EPERM), _allowing()])
    for name, numbers in _ON_ITSELF.items():
        itself = 0 if name == "prlimit64" else process
        steps += _if(numbers[at], [_argument(0), (_IS, 1, 0, itself), _failing(errno.EPERM), _allowing()])
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, _allowing()])


_Step = tuple[int, int, int, int]
"""What to do, the steps to skip where a test is true and where it is false, and a value."""


def _if(number: int | None, steps: list[_Step]) -> list[_Step]:
    """These steps for the call of this number."""
    return [] if number is None else [(_IS, 0, len(steps), number), *steps]


def _argument(place: int) -> _Step:
    return _LOAD, 0, 0, _ARGUMENTS + 8 * place


def _failing(reason: int) -> _Step:
    return _RETURN, 0, 0, _FAIL | reason


def _allowing() -> _Step:
    return _RETURN, 0, 0, _ALLOW
