"""What the 3D Slicer module is made of; `client.py` and `scan_file.py` serve the napari plug-in too."""
