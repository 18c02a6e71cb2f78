"""Ask questions of the medical scan in napari and see which slices weigh most in each answer; `napari.yaml` says what is offered."""

__version__ = "0.1.0"
