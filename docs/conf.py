"""Settings of the documentation's site: `sphinx-build -W --keep-going -b html docs docs/_build`.

Needs the extra `docs` and no network. Pages in `docs/generated/` are written anew by each build.
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import generated_pages  # noqa: E402

import nacgen  # noqa: E402

project, author = "nacgen", "The nacgen developers"
copyright = author
release = nacgen.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

# Pages are Markdown as GitHub shows it, so headings have GitHub's anchors.
myst_heading_anchors = 4

# Docstrings: types stand in the signature.
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "notes_style")]
python_display_short_literal_types = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"nacgen {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False

generated_pages.write(ROOT / "docs" / "generated")


def setup(app: Any) -> None:
    """Connect what prepares docstrings and signatures for the reference."""
    app.connect("autodoc-process-docstring", generated_pages.prepare_docstring)
    app.connect("autodoc-process-signature", generated_pages.show_signature)
