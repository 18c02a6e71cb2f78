"""Ask questions of the scan in napari and see which slices weigh most; `napari.yaml` says what is offered."""

__version__ = "0.1.0"
