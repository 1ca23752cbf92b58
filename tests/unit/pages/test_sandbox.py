"""What a page process can no longer do, asked from within and from without; and that it never outlives its parent."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from ocr_mlx.pages import seccomp
from ocr_mlx.pages.load import PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses
from ocr_mlx.pages.process import environment

MakePdf = Callable[..., bytes]
Encode = Callable[..., bytes]
MEMORY = 1 << 30
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


@pytest.fixture(scope="module")
def filtered() -> None:
    """Skips where the kernel takes no filter, as in some containers."""
    code = "import sys; from ocr_mlx.pages import seccomp; sys.exit(not seccomp.refuse())"
    if subprocess.run([sys.executable, "-c", code]).returncode != 0:
        pytest.skip("this kernel takes no system call filter")


def test_the_environment_holds_what_python_needs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    given = {
        "OCR_MLX_TOKEN": "secret",
        "HOME": "/root",
        "AWS_SECRET": "x",
        "PYTHONPATH": f"src{os.pathsep}/abs{os.pathsep}",
    }
    found = environment(given | {"PYTHONHOME": "/python", "LD_LIBRARY_PATH": "/lib"})
    assert "secret" not in found.values()
    assert set(found) == {
        "PYTHONPATH",
        "PYTHONHOME",
        "LD_LIBRARY_PATH",
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MALLOC_ARENA_MAX",
    }
    assert found["PYTHONPATH"] == f"/src{os.pathsep}/abs"  # the process starts in another folder


@on_linux
def test_the_real_process_has_given_up_what_it_does_not_need(
    encode: Encode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filtered: None
) -> None:
    monkeypatch.setenv("OCR_MLX_TOKEN", "secret-token")
    monkeypatch.chdir(tmp_path)
    with PageProcesses() as processes:
        open_document(encode(Image.new("L", (4, 4))), limits=PageLimits(), renderer=processes)
        (child,) = (one._process for one in processes._processes if one._process is not None)
        proc = Path(f"/proc/{child.pid}")
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        limits = {line[:26].strip(): line[26:].split() for line in (proc / "limits").read_text().splitlines()}
        handles = [os.readlink(handle) for handle in (proc / "fd").iterdir()]
        assert b"secret-token" not in (proc / "environ").read_bytes()
        assert os.readlink(proc / "cwd") == "/"
        assert int((proc / "oom_score_adj").read_text()) >= 800
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert limits["Max address space"][:2] == [str(PageLimits().memory)] * 2
    assert limits["Max core file size"][:2] == limits["Max file size"][:2] == ["0", "0"]
    assert limits["Max open files"][:2] == ["64", "64"]
    assert 1 < int(limits["Max cpu time"][0]) < 60
    assert all(handle.startswith(("pipe:", "/dev/null")) for handle in handles), handles


WITHIN = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, threading
from ocr_mlx.pages import sandbox
folder = sys.argv[1]
open(folder + "/old", "w").close()
sandbox.enter(1 << 30, os.getppid())
library = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(library, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def reason(step):
    try:
        step()
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""

found = {
    "socket": reason(lambda: socket.socket()),
    "ipv6": reason(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
    "unix": reason(lambda: socket.socket(socket.AF_UNIX)),
    "socketpair": reason(lambda: socket.socketpair()),
    "connect": reason(lambda: call("connect", 0, None, 0)),
    "program": reason(lambda: subprocess.run(["/bin/true"])),
    "exec": reason(lambda: os.execv("/bin/true", ["true"])),
    "fork": reason(lambda: os.fork()),
    "write": reason(lambda: open(folder + "/old", "w")),
    "append": reason(lambda: open(folder + "/old", "a")),
    "new": reason(lambda: open(folder + "/new", "x")),
    "folder": reason(lambda: os.mkdir(folder + "/folder")),
    "unlink": reason(lambda: os.unlink(folder + "/old")),
    "rename": reason(lambda: os.rename(folder + "/old", folder + "/new")),
    "link": reason(lambda: os.symlink(folder, folder + "/link")),
    "chmod": reason(lambda: os.chmod(folder, 0o700)),
    "times": reason(lambda: os.utime(folder + "/old")),
    "truncate": reason(lambda: os.truncate(folder + "/old", 1)),
    "kill": reason(lambda: os.kill(os.getppid(), 0)),
    "group": reason(lambda: os.kill(-1, 0)),
    "ptrace": reason(lambda: call("ptrace", 16, os.getppid(), 0, 0)),
    "limits of others": reason(lambda: call("prlimit", os.getppid(), 7, None, None)),
    "memory of others": reason(lambda: call("process_vm_readv", os.getppid(), None, 0, None, 0, 0)),
    "queue": reason(lambda: call("mq_open", b"/ocr_mlx_test", os.O_RDWR | os.O_CREAT, 0o600, None)),
    "shared memory": reason(lambda: call("shmget", 0, 4096, 0o1600)),
    "turn of others": reason(lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)),
    "read": reason(lambda: open(folder + "/old").close()),
    "list": reason(lambda: os.listdir(folder)),
    "itself": reason(lambda: os.kill(os.getpid(), 0)),
    "time": reason(lambda: sandbox.allow_seconds(5)),
}
thread = threading.Thread(target=lambda: found.update(thread=reason(lambda: socket.socket())))
thread.start()
thread.join()
print(json.dumps(found))
"""
ALLOWED = {"read", "list", "itself", "time"}


@on_linux
@pytest.mark.process
def test_from_within(tmp_path: Path, filtered: None) -> None:
    done = subprocess.run([sys.executable, "-c", WITHIN, tmp_path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {name for name, reason in found.items() if not reason} == ALLOWED
    assert {reason for name, reason in found.items() if name not in ALLOWED} == {"EPERM"}
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def judge(program: bytes, machine: int, number: int, *arguments: int) -> int:
    """What the kernel would do: it runs the filter on (number, machine, where, arguments)."""
    seen = struct.pack("<IIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    at, held = 0, 0
    while True:
        code, true, false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                (held,) = struct.unpack_from("<I", seen, value)
            case 0x15:
                at += true if held == value else false
            case 0x35:
                at += true if held >= value else false
            case 0x45:
                at += true if held & value else false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(code)


ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
ME = 4711
CALLS: list[tuple[str, tuple[int | None, int | None], tuple[int, ...], int]] = [
    ("read", (0, 63), (), ALLOW),
    ("mmap", (9, 222), (), ALLOW),
    ("exit_group", (231, 94), (), ALLOW),
    ("socket", (41, 198), (2, 1), EPERM),
    ("execve", (59, 221), (), EPERM),
    ("io_uring_setup", (425, 425), (), ENOSYS),
    ("clone3", (435, 435), (), ENOSYS),
    ("open", (2, None), (0, os.O_RDONLY), ALLOW),
    ("open", (2, None), (0, os.O_RDWR), EPERM),
    ("openat", (257, 56), (0, 0, os.O_RDONLY | os.O_CLOEXEC), ALLOW),
    ("openat", (257, 56), (0, 0, os.O_WRONLY), EPERM),
    ("openat", (257, 56), (0, 0, os.O_CREAT), EPERM),
    ("clone", (56, 220), (0x3D0F00,), ALLOW),
    ("clone", (56, 220), (0x01200011,), EPERM),
    ("tgkill", (234, 131), (ME,), ALLOW),
    ("kill", (62, 129), (ME,), ALLOW),
    ("kill", (62, 129), (0,), EPERM),
    ("kill", (62, 129), (ME + 1,), EPERM),
    ("prlimit64", (302, 261), (0, 7), ALLOW),
    ("prlimit64", (302, 261), (ME + 1, 7), EPERM),
]


@pytest.mark.parametrize(("place", "machine"), list(enumerate(["x86_64", "aarch64"])))
def test_the_filter_of_either_machine(place: int, machine: str) -> None:
    program = seccomp._program(machine, ME)
    kind = seccomp._MACHINES[machine]
    for name, numbers, arguments, expected in CALLS:
        if (number := numbers[place]) is not None:
            assert judge(program, kind, number, *arguments) == expected, name
    assert judge(program, kind ^ 1, 0) == KILL
    assert judge(program, kind, 0x40000000 + 1) == EPERM
    assert len(program) // 8 < 4096  # the kernel's limit


@on_linux
def test_a_kind_of_machine_that_nobody_knows_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "pdp11")
    assert not seccomp.refuse()


BURNS = """
import os, re
from ocr_mlx.pages import sandbox
sandbox.enter(1 << 30, os.getppid())
sandbox.allow_seconds(100)
sandbox.allow_seconds(-2)
re.match(r"(a+)+$", "a" * 60 + "b")
"""


@pytest.mark.process
def test_a_decoder_that_computes_for_ever_is_ended_by_the_system() -> None:
    assert subprocess.run([sys.executable, "-c", BURNS]).returncode == -signal.SIGXCPU


@pytest.mark.process
def test_it_ends_at_once_where_its_parent_has_gone_already() -> None:
    command = [sys.executable, "-P", "-m", "ocr_mlx.pages.child", str(MEMORY), str(os.getpid() + 1)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.read() == b""


ORPHAN = """
import json, sys, threading, psutil
from ocr_mlx.pages.load import PageLimits, open_document
from ocr_mlx.pages.pool import PageProcesses
processes = PageProcesses(command=json.loads(sys.argv[2]))

def start():
    global document
    document = open_document(open(sys.argv[1], "rb").read(), limits=PageLimits(), renderer=processes)

thread = threading.Thread(target=start)  # a process must not end with the thread that first asked for it
thread.start()
thread.join()
assert document.page(0, dpi=72).width == 200 or sys.argv[2] != "[]"
print(psutil.Process().children()[0].pid, flush=True)
if sys.argv[3]:
    document.page(0, dpi=72)
sys.stdin.read()
"""
HANGS = """
import ctypes, threading
from ocr_mlx.pages import child
real, asked = child._page, []

def page(*about):
    asked.append(about)
    return real(*about) if len(asked) == 1 else HOW
child._page = page
child.main()
"""
WAITS, HOLDS_THE_INTERPRETER = "threading.Event().wait()", "ctypes.PyDLL(None).sleep(600)"


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("PDF", ""),
        ("PDF", WAITS),
        pytest.param("PNG", HOLDS_THE_INTERPRETER, marks=on_linux),
    ],
)
def test_it_dies_with_its_parent_even_in_the_middle_of_a_page(
    tmp_path: Path, make_pdf: MakePdf, encode: Encode, kind: str, how: str
) -> None:
    file = tmp_path / "document"
    file.write_bytes(make_pdf("") if kind == "PDF" else encode(Image.new("L", (200, 9))))
    command = [sys.executable, "-c", HANGS.replace("HOW", how)] if how else []
    arguments: list[Any] = [sys.executable, "-c", ORPHAN, file, json.dumps(command), how]
    parent = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.2 if how else 0)  # until it is in the middle
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the page process outlived its parent"
            time.sleep(0.01)
