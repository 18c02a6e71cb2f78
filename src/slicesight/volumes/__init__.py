"""What is a scan, and how does any file become one and fit the model grid? (numpy only, no torch)"""

from slicesight.volumes.grid import GridSlice, GridSpec, GridVolume, to_grid
from slicesight.volumes.readers import read_volume
from slicesight.volumes.volume import Volume

__all__ = ["GridSlice", "GridSpec", "GridVolume", "Volume", "read_volume", "to_grid"]
