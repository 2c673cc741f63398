"""The error tree of the CVMFS client.

Each refusal has a class, a one-line text that names the thing and the remedy, and an exit status of its own
(statuses up to 25 are those of the official client where it has one for the case)::

    CvmfsError                         1
    |- UsageError                      2  a wrong argument
    |- ConfigError                     2  a configuration file, a parameter or a key file is wrong
    |- CacheError                      9  the local cache cannot be used
    |- SignatureError                 15  a signature, certificate or fingerprint does not verify
    |  `- FormatError                 15  manifest, whitelist or certificate cannot be parsed
    |- TagError                       22  no such tag, date or revision
    |- ProxyError                     23  no proxy is configured or discovered
    |- BlacklistedError               25  certificate or revision is on the blacklist
    |- NameMismatchError              31  the server serves another repository
    |- ExpiredError                   32  the whitelist has expired
    |- RolledBackError                33  older than a revision verified before
    |- RepositoryNotFoundError        34  the servers do not have the repository
    `- CvmfsIoError                       also an OSError: what a system call on a mounted file would give
       |- CacheFullError               9  no space left in the cache, and eviction did not help (ENOSPC)
       |- CatalogError                16  a catalog is damaged, hostile or of an unknown schema (EIO)
       |- NetworkError                30  no server could be reached through any proxy (EIO)
       |  `- OfflineError             30  not in the cache, and there is no network (EIO)
       |- IntegrityError              35  bytes differ from their hash or size on every server (EIO)
       |- ObjectNotFoundError         35  an object that the catalog names is missing on every server (EIO)
       |- UnsupportedError            35  well-formed, but of a kind that this version cannot read (EIO)
       |- AuthorizationError          37  the repository wants a membership that the caller lacks (EACCES)
       `- PathError                    1  about a path inside the repository
          |- PathNotFoundError         1  also FileNotFoundError
          |- PathNotADirectoryError    1  also NotADirectoryError
          |- PathIsADirectoryError     1  also IsADirectoryError
          |- PathInvalidError          1  not a symbolic link, not a regular file (EINVAL)
          |- PathLoopError             1  too many symbolic links (ELOOP)
          |- AttributeMissingError     1  no such extended attribute (ENODATA)
          `- ReadOnlyError             1  the repository cannot be written (EROFS)
"""

from __future__ import annotations

import errno
import os
from typing import Any, Union

PathLike = Union[str, bytes]


def show(path: PathLike) -> str:
    """``path`` as one printable line, whatever bytes it has."""
    text = os.fsdecode(path) if isinstance(path, bytes) else path
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class CvmfsError(Exception):
    """Base of all errors. ``message`` names the thing and what is wrong, ``remedy`` what to try."""

    status = 1
    errno: int | None = None  # what a system call on the file would give

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> Any:
        return (type(self), (self.message, self.remedy))


class CvmfsIoError(CvmfsError, OSError):
    """Also an OSError, with the number that a system call on a mounted file would give."""

    errno = errno.EIO

    def __init__(self, message: str, remedy: str = "") -> None:
        CvmfsError.__init__(self, message, remedy)
        self.errno = type(self).errno
        self.strerror = message


class UsageError(CvmfsError):
    """A wrong argument."""

    status = 2


class ConfigError(CvmfsError):
    """A configuration file, a parameter or a key file is wrong."""

    status = 2


class CacheError(CvmfsError):
    """The local cache cannot be used."""

    status = 9


class CacheFullError(CvmfsIoError):
    """No space left in the cache, and eviction did not help."""

    status = 9
    errno = errno.ENOSPC


class SignatureError(CvmfsError):
    """A signature, certificate or fingerprint does not verify."""

    status = 15


class FormatError(SignatureError):
    """Manifest, whitelist or certificate cannot be parsed."""


class CatalogError(CvmfsIoError):
    """A catalog is damaged, hostile or of an unknown schema."""

    status = 16
    errno = errno.EIO


class TagError(CvmfsError):
    """No such tag, date or revision."""

    status = 22


class ProxyError(CvmfsError):
    """No proxy is configured or discovered."""

    status = 23


class BlacklistedError(CvmfsError):
    """Certificate or revision is on the blacklist."""

    status = 25


class NetworkError(CvmfsIoError):
    """No server could be reached through any proxy."""

    status = 30
    errno = errno.EIO


class OfflineError(NetworkError):
    """Not in the cache, and there is no network."""


class NameMismatchError(CvmfsError):
    """The server serves another repository."""

    status = 31


class ExpiredError(CvmfsError):
    """The whitelist has expired."""

    status = 32


class RolledBackError(CvmfsError):
    """Older than a revision verified before."""

    status = 33


class RepositoryNotFoundError(CvmfsError):
    """The servers do not have the repository."""

    status = 34
    errno = errno.ENOENT


class IntegrityError(CvmfsIoError):
    """Bytes differ from their hash or size on every server."""

    status = 35
    errno = errno.EIO


class ObjectNotFoundError(CvmfsIoError):
    """An object that the catalog names is missing on every server."""

    status = 35
    errno = errno.EIO


class UnsupportedError(CvmfsIoError):
    """Well-formed, but of a kind that this version cannot read."""

    status = 35
    errno = errno.EIO


class AuthorizationError(CvmfsIoError):
    """The repository wants a membership that the caller lacks."""

    status = 37
    errno = errno.EACCES


class PathError(CvmfsIoError):
    """About a path inside the repository."""

    status = 1

    def __init__(self, path: PathLike, reason: str = "") -> None:
        code = type(self).errno or errno.EIO
        super().__init__(f"{show(path)}: {reason or os.strerror(code)}")
        self.strerror = reason or os.strerror(code)
        self.filename = path

    def __reduce__(self) -> Any:
        return (type(self), (self.filename, self.strerror))


class PathNotFoundError(PathError, FileNotFoundError):
    """No such file or directory."""

    errno = errno.ENOENT


class PathNotADirectoryError(PathError, NotADirectoryError):
    """A directory is needed."""

    errno = errno.ENOTDIR


class PathIsADirectoryError(PathError, IsADirectoryError):
    """A directory where a file is needed."""

    errno = errno.EISDIR


class PathInvalidError(PathError):
    """Not a symbolic link, or not a regular file."""

    errno = errno.EINVAL


class PathLoopError(PathError):
    """Too many levels of symbolic links."""

    errno = errno.ELOOP


class AttributeMissingError(PathError):
    """No such extended attribute."""

    errno = errno.ENODATA


class ReadOnlyError(PathError):
    """The repository cannot be written."""

    errno = errno.EROFS
