"""Every error that ecomap raises on purpose.

A message is one sentence each for what is wrong (with the value and where), what was expected,
and what to do. The command line prints it without a traceback and exits 2.
"""

import errno

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Codes of an `OSError` where a disk, a quota or a limit leaves no room."""


class EcomapError(Exception):
    """Base of all errors that ecomap raises on purpose."""


class ConfigError(EcomapError, ValueError):
    """A configuration file or override is wrong."""


class SchemaError(EcomapError, ValueError):
    """A record does not keep the dataset contract of `ecomap.schema`."""


class DataError(EcomapError, ValueError):
    """A file of a dataset is missing, damaged, or not what its name says."""


class BundleError(EcomapError, ValueError):
    """A model bundle is missing, incomplete, or does not fit the request."""


class DivergenceError(EcomapError, ArithmeticError):
    """Training has left the range of numbers."""


class RequestError(EcomapError, ValueError):
    """A request to generate, score or plot asks for something impossible."""


class ImageError(DataError):
    """An image cannot be scored; sets of images leave it out and count it under ``reason``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """A few words that are the same for all images with this fault."""

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Errors travel between processes."""
        return type(self), (self.reason, str(self))
