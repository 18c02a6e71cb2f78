"""Sphinx settings: Markdown pages, notebooks with their stored outputs, and what the code says of itself."""

import sys
from pathlib import Path

from slicesight import __version__

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "slicesight"
copyright = "the slicesight authors"
release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # docs/notebooks/run.py runs them; a test runs them small
nb_merge_streams = True
html_theme = "furo"
html_title = f"slicesight {__version__}"
html_theme_options = {"sidebar_hide_name": False, "top_of_page_buttons": []}
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_copy_source = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
exclude_patterns = ["_build", "extensions", "static"]
