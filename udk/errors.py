"""The one error tree of udk.

Every failure that a user can meet is an instance of one of these classes. The command line prints
``udk: error: <message>; <remedy>`` on one line and ends with the class's exit status; nothing else prints.

::

    UdkError                      125
    |- UsageError                 125  the command line is wrong
    |- ConfigError                125  a configuration file or variable is wrong
    |- InvalidReferenceError      125  an image name that no grammar accepts
    |- InvalidDigestError         125
    |- ImageError                 125  what the registry or archive holds is not a runnable image
    |  |- InvalidImageError            malformed or contradictory manifest, index, config
    |  |- UnsupportedImageError        well-formed, but a kind that udk does not run
    |  `- PlatformError                no image for the platform asked for
    |- IntegrityError             125  bytes are not what their digest or size says
    |- RegistryError              125
    |  |- NetworkError                 no answer, or the connection broke (retried before it is raised)
    |  |- AuthError                    credentials missing or refused
    |  |- NotFoundError                the registry does not have it
    |  |- RateLimitError               429 beyond the patience configured
    |  `- ProtocolError                an answer that breaks the protocol
    |- LayerError                 125  a layer that is hostile, truncated or beyond a cap
    |- StoreError                 125
    |  |- DiskFullError                ENOSPC or EDQUOT; what was fetched so far is kept
    |  |- CorruptStoreError            something in the store is damaged
    |  `- InUseError                   refused because a live process uses it
    |- ContainerError             125  no such container, name taken, wrong state
    `- EngineError                125
       |- EngineUnavailableError       this engine cannot work on this node
       |- CommandNotExecutableError 126
       `- CommandNotFoundError      127
"""

from __future__ import annotations

EXIT_UDK = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class UdkError(Exception):
    """Base of all errors. ``message`` names the thing and what is wrong, ``remedy`` what to try."""

    status = EXIT_UDK

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class UsageError(UdkError):
    """The command line is wrong."""


class ConfigError(UdkError):
    """A configuration file or an environment variable is wrong."""


class InvalidReferenceError(UdkError):
    """An image name that does not follow the reference grammar."""


class InvalidDigestError(UdkError):
    """A digest that is malformed or of an algorithm that is not accepted."""


class ImageError(UdkError):
    """What the source holds is not an image that can be run."""


class InvalidImageError(ImageError):
    """A malformed or self-contradictory manifest, index or config."""


class UnsupportedImageError(ImageError):
    """A well-formed artifact of a kind that is not supported."""


class PlatformError(ImageError):
    """No image for the platform asked for."""


class IntegrityError(UdkError):
    """Bytes that differ from the digest or size announced for them."""


class RegistryError(UdkError):
    """A registry could not be used."""


class NetworkError(RegistryError):
    """No answer, or a broken connection, after all retries."""


class AuthError(RegistryError):
    """Credentials are missing or were refused."""


class NotFoundError(RegistryError):
    """The registry does not have what was asked for."""


class RateLimitError(RegistryError):
    """The registry asks for more patience than is configured."""


class ProtocolError(RegistryError):
    """An answer that breaks the distribution protocol."""


class LayerError(UdkError):
    """A layer that is hostile, truncated or beyond a cap."""


class StoreError(UdkError):
    """The local store could not be read or written."""


class DiskFullError(StoreError):
    """No space or quota left; partial downloads are kept for resumption."""


class CorruptStoreError(StoreError):
    """Something in the store is damaged."""


class InUseError(StoreError):
    """Refused because a live process uses it."""


class ContainerError(UdkError):
    """No such container, a name already taken, or the wrong state."""


class EngineError(UdkError):
    """An engine failed to set a container up."""


class EngineUnavailableError(EngineError):
    """This engine cannot work on this node; the message says why."""


class CommandNotExecutableError(EngineError):
    """The command exists in the image but cannot be executed."""

    status = EXIT_NOT_EXECUTABLE


class CommandNotFoundError(EngineError):
    """The command does not exist in the image."""

    status = EXIT_NOT_FOUND
