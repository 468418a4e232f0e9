"""A tracer of a process and all its threads and children: sees each call that changes a file, and may spoil it.

ptrace stops the threads, and a seccomp filter chooses where: only at calls of `CALLS`, so that all else runs at full
speed. It sees what Python, Rust and C++ do alike. Not seen: io_uring, and what is stored to memory that is mapped from
a file (the mapping itself is). Linux on x86_64 only; standard library only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from tests.resume import forks
from tests.resume.torture.syscalls.calls import CALLS, Call, read_call

_TRACEME, _CONT, _GETREGS, _SETREGS, _SYSCALL, _SETOPTIONS = 0, 7, 12, 13, 24, 0x4200
# Marked stops; forks, vforks, threads and exec are followed; stops of the filter; all die with the tracer.
_OPTIONS: Final = 1 | 2 | 4 | 8 | 0x10 | 0x80 | 0x100000
_EVENT_SECCOMP, _WALL = 7, 0x40000000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_X86_64: Final = 0xC000003E
_CHANGES_FILES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class _Registers(ctypes.Structure):
    """`user_regs_struct` of x86_64."""

    _fields_ = [
        (name, ctypes.c_ulonglong)
        for name in (
            *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
            *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
        )
    ]


_ARGUMENTS: Final = ("rdi", "rsi", "rdx", "r10", "r8", "r9")


@dataclass(frozen=True)
class Do:
    """What the tracer does with a call.

    Attributes:
        kill: Ends the process: "before" or "after" the call; "" leaves it alive.
        error: Number of an error that the call returns without being made; 0 for none.
        halve: It writes only the first half.
    """

    kill: str = ""
    error: int = 0
    halve: bool = False


GO: Final = Do()


class Watcher(Protocol):
    """Told of each call that changes a file."""

    def before(self, call: Call) -> Do:
        """Decides what becomes of it; everything stands still meanwhile."""
        ...

    def after(self, call: Call) -> None:
        """Told when it was made."""
        ...


def why_not() -> str:
    """Why nothing can be traced here; "" where it can."""
    if sys.platform != "linux":
        return "only Linux has ptrace and seccomp as they are needed"
    if platform.machine() != "x86_64":
        return f"the tracer knows the registers of x86_64 only, and this is {platform.machine()}"
    child = os.fork()
    if not child:
        refused = 1
        try:
            refused = int(_libc().ptrace(_TRACEME, 0, None, None) != 0)
            _install_filter()
        except OSError:
            refused = 1
        finally:
            os._exit(refused)
    _, status = os.waitpid(child, 0)
    return "" if not status else "ptrace or seccomp are not permitted here (a container without SYS_PTRACE?)"


def trace(folder: Path, watcher: Watcher, job: forks.Job, /, **arguments: Any) -> forks.Ending:
    """Runs a job in a forked child, as `forks.run`, under the eyes of a watcher.

    The caller may have no other children that end meanwhile.
    """
    child = forks.start(folder, _Traced(job), **arguments)
    return child.ending(_Tracer(child.pid, watcher).run())


class _Traced:
    def __init__(self, job: forks.Job) -> None:
        self._job = job

    def __call__(self, **arguments: Any) -> Any:
        if _libc().ptrace(_TRACEME, 0, None, None):
            raise OSError(ctypes.get_errno(), "ptrace")
        os.kill(os.getpid(), signal.SIGSTOP)
        _install_filter()
        return self._job(**arguments)


class _Tracer:
    """The loop over stops."""

    def __init__(self, leader: int, watcher: Watcher) -> None:
        self._leader, self._watcher, self._libc = leader, watcher, _libc()
        self._known = {leader}
        # Calls on their way, by thread.
        self._pending: dict[int, tuple[Call, Do]] = {}

    def run(self) -> int:
        """Until the child and all that it started have ended; returns the child's status as `waitpid` gives it."""
        os.waitpid(self._leader, 0)
        self._ptrace(_SETOPTIONS, self._leader, _OPTIONS)
        self._ptrace(_CONT, self._leader, 0)

        ending = 0
        while True:
            try:
                process, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return ending
            if not os.WIFSTOPPED(status):
                if process == self._leader:
                    ending = status
                self._known.discard(process)
                self._pending.pop(process, None)
                continue
            try:
                self._stopped(process, status)
            except ProcessLookupError:
                # Killed meanwhile.
                continue

    def _stopped(self, process: int, status: int) -> None:
        reason, event = os.WSTOPSIG(status), status >> 16
        is_new = process not in self._known
        self._known.add(process)

        if event == _EVENT_SECCOMP:
            self._entered(process)
        elif reason == signal.SIGTRAP | 0x80:
            self._left(process)
        elif event or (is_new and reason == signal.SIGSTOP):
            self._ptrace(_CONT, process, 0)
        else:
            self._ptrace(_CONT, process, reason)

    def _entered(self, process: int) -> None:
        registers = self._registers(process)
        numbers = tuple(getattr(registers, name) for name in _ARGUMENTS)
        call = read_call(process, registers.orig_rax, numbers)
        if call is None:
            self._ptrace(_CONT, process, 0)
            return

        do = self._watcher.before(call)
        if do.kill == "before":
            self._kill()
            return
        if do.error:
            # No such call; this is what it seems to return.
            registers.orig_rax, registers.rax = 2**64 - 1, 2**64 - do.error
            self._set_registers(process, registers)
            self._ptrace(_CONT, process, 0)
            return
        if do.halve and call.shape.size >= 0:
            setattr(registers, _ARGUMENTS[call.shape.size], max(call.size // 2, 1))
            self._set_registers(process, registers)
        self._pending[process] = (call, do)
        self._ptrace(_SYSCALL, process, 0)

    def _left(self, process: int) -> None:
        call, do = self._pending.pop(process)
        if do.kill == "after":
            self._kill()
            return
        self._watcher.after(call)
        self._ptrace(_CONT, process, 0)

    def _kill(self) -> None:
        for process in self._known:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _registers(self, process: int) -> _Registers:
        registers = _Registers()
        self._ptrace(_GETREGS, process, ctypes.addressof(registers))
        return registers

    def _set_registers(self, process: int, registers: _Registers) -> None:
        self._ptrace(_SETREGS, process, ctypes.addressof(registers))

    def _ptrace(self, request: int, process: int, data: int) -> None:
        if self._libc.ptrace(request, process, None, data):
            number = ctypes.get_errno()
            raise OSError(number, f"ptrace {request}: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return libc


# ---- The filter: a program for the kernel's packet machine ----

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _STOP = 0x7FFF0000, 0x7FF00000


def _program() -> list[tuple[int, int, int, int]]:
    """(code, jump if true, jump if false, operand); data are number, architecture, and six arguments from byte 16."""
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    special = {
        2: [(1, _CHANGES_FILES)],
        257: [(2, _CHANGES_FILES)],
        # PROT_WRITE and MAP_SHARED.
        9: [(2, 2), (3, 1)],
    }
    for number in CALLS:
        tests = special.get(number, [])
        program.append((_EQUAL, 0, 2 * len(tests) + 1 + bool(tests), number))
        for place, (argument, bits) in enumerate(tests):
            left = len(tests) - place - 1
            program += [(_LOAD, 0, 0, 16 + 8 * argument), (_ANY_BIT, 0, 2 * left + 1, bits)]
        program.append((_RETURN, 0, 0, _STOP))
        if tests:
            program.append((_RETURN, 0, 0, _ALLOW))
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _install_filter() -> None:
    """From now on this process, and each that it starts, stops at such calls; without a tracer they fail."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = _program()
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code)))
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
