"""How `make docs` builds the site: Sphinx over the Markdown files here, with the reference generated from the code."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `generation`

project = "Victorian"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generation"]
myst_heading_anchors = 3
highlight_language = "none"
default_role = "code"
suppress_warnings = ["myst.strikethrough"]

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "pydata_sphinx_theme"
html_title = "Victorian"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_favicon = "_static/icon.svg"
html_show_search_summary = False  # it would be fetched, which browsers refuse to a page from a file
html_show_sphinx = False
html_show_copyright = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "navigation_with_keys": False,
}
html_sidebars = {"index": [], "tutorial": []}
