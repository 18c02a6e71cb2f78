"""Sphinx settings: Markdown pages and the public Python names."""

from slicesight import __version__

project = "slicesight"
copyright = "the slicesight authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"slicesight {__version__}"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]  # the README links to files that the manual includes under other names
