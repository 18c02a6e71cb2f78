"""The one family of errors a user's data or settings can cause.

Every message is one line that says what was found, what was expected and what to change. The command line
prints it and exits with code 2; anything that is not an `InputError` is our own fault and keeps its traceback.
"""


class InputError(ValueError):
    """A file, folder, recipe or option that cannot be used as it is."""


class VolumeError(InputError):
    """A scan that cannot be read, or whose header contradicts itself."""


class ManifestError(InputError):
    """A manifest line that does not follow the schema."""


class ModelError(InputError):
    """A model folder or configuration that cannot be built."""
