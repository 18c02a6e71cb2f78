"""What is a scan, and how does it fit the model grid? (numpy only, no torch)"""

from slicesight.volumes.grid import GridSlice, GridSpec, GridVolume, to_grid
from slicesight.volumes.volume import Volume

__all__ = ["GridSlice", "GridSpec", "GridVolume", "Volume", "to_grid"]
