"""Files and directories: written all or nothing, behind symbolic links, by one writer at a time."""

import contextlib
import errno
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nsgf import _checks

Path_ = str | os.PathLike[str]
_WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of some file systems of clusters


def place(path: Path_) -> Path:
    """Return the file that a path stands for, behind symbolic links, or raise where it cannot be written.

    Raises
    ------
    FileNotFoundError
        Where its directory is missing.
    PermissionError
        Where the directory or the file is read-only, for root too.
    OSError
        Where it is a directory, a device, a pipe or a socket.

    Examples
    --------
    >>> place("nowhere/model.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] there is no such directory; make it first: '...nowhere'
    """
    file = Path(os.path.realpath(_checks.path("path", path)))
    if not os.path.isdir(file.parent):
        raise FileNotFoundError(errno.ENOENT, "there is no such directory; make it first", os.fspath(file.parent))
    is_there = os.path.lexists(file)
    if is_there:
        check_regular(file)
    for entry in (file.parent, file)[: 1 + is_there]:
        if not (os.stat(entry).st_mode & 0o222 and os.access(entry, os.W_OK)):
            message = "this is read-only; choose another path, or allow writing (chmod u+w)"
            raise PermissionError(errno.EACCES, message, os.fspath(entry))
    return file


def check_regular(path: Path_) -> None:
    """Raise where a path is a directory, a device, a pipe or a socket, or there is nothing."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "this is a directory; give the path of a file", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "this is a device, a pipe or a socket; give the path of a file", os.fspath(path))


def replace(path: Path_, blob: bytes) -> None:
    """Make `blob` the content of a file in one move, once it is on the disk; links stay, and so does the mode.

    A full disk or a kill leaves what stood there before. What a kill leaves beside it is written over the next time.
    """
    file = place(path)
    new = file.with_name(f".{file.name}.new")
    try:
        with _alone(new) as draft:
            try:
                _fill(draft, blob, file)
                os.replace(new, file)
            except BaseException:
                _unlink(new)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _fill(draft: IO[bytes], blob: bytes, file: Path) -> None:
    """Write the draft of a file to the disk, with the mode of the file."""
    if file.exists():
        shutil.copymode(file, draft.name)
    draft.truncate(0)
    draft.write(blob)
    draft.flush()
    os.fsync(draft.fileno())
    if sys.platform == "win32":
        draft.close()  # it moves no file that is open


@contextlib.contextmanager
def _alone(path: Path, wait: bool = True) -> Iterator[IO[bytes]]:
    """Open a file to append to it, with a lock, which the system releases however the process ends."""
    while True:
        with open(path, "ab+", opener=_open_here) as file:
            _lock(file, wait)
            if _is_at(path, file):  # and was not moved while we waited
                yield file
                return


def _is_at(path: Path, file: IO[bytes]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def _open_here(path: str, flags: int) -> int:
    """Open a file that is ours: where others may write, they may leave links, or what is no file."""
    if os.path.lexists(path) and not (stat.S_ISREG((found := os.lstat(path)).st_mode) and found.st_nlink == 1):
        name = os.path.basename(path)
        raise FileExistsError(errno.EEXIST, f"{name!r} is in the way, a link or no file; remove it", path)
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _lock(file: IO[bytes], wait: bool) -> None:
    """Take the lock of a file, or raise BlockingIOError where another has it and we do not wait."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise


@contextlib.contextmanager
def claimed(directory: Path_, key: str) -> Iterator[None]:
    """Hold a directory for the run of that key.

    Raises
    ------
    ValueError
        Where another run's files are in it, or another fit is at work there.
    OSError
        Where it is none, or cannot be written.
    """
    directory = Path(directory)
    with contextlib.ExitStack() as held:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            place(directory / "run.json")
            lock = held.enter_context(_alone(directory / ".lock", wait=False))
            held.callback(_unlink, directory / ".lock")  # while the lock is ours
            lock.truncate(0)
            os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            _take(directory, key)
        except BlockingIOError:
            owner = (directory / ".lock").read_text(errors="replace")
            raise ValueError(
                f"directory={os.fspath(directory)!r} is in use by another fit, of {owner}. Wait until it has ended, or "
                "choose another directory."
            ) from None
        except OSError as error:
            code = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno
            message = f"directory={os.fspath(directory)!r} cannot be used ({os.strerror(code or 0)}); choose another"
            raise OSError(code, message, error.filename) from error
        yield


def _take(directory: Path, key: str) -> None:
    """Write whose run the directory is, or raise where another run's files are in it."""
    path, owner = directory / "run.json", json.dumps({"key": key}).encode()
    is_ours = path.exists() and path.read_bytes() == owner
    others = (file for file in directory.rglob("*") if not file.name.startswith((".", "run.json")))
    if not is_ours and any(file.is_file() for file in others):
        raise ValueError(
            f"directory={os.fspath(directory)!r} holds other files, or the training of other data or parameters. "
            "Choose another directory, or delete that one."
        )
    replace(path, owner)
