"""Sphinx settings of the web site; `tools/publish.py` prepares the pages and passes title and language."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.search.zh import SearchChinese
from sphinx.writers.html5 import HTML5Translator

ASSETS = Path(__file__).resolve().parent.parent

extensions = ["myst_nb"]
root_doc = "index"
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
# A stored explorer shows its picture: no page has a kernel behind it.
nb_mime_priority_overrides = [("html", "image/png", 1), ("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
# A notebook's first headings may skip a level: an exercise is a `###` wherever it stands.
suppress_warnings = ["myst.header"]

html_context = {"default_mode": "auto"}
html_theme = "sphinx_book_theme"
html_theme_options = {
    "article_header_end": ["language.html", "article-header-buttons.html"],
    "extra_footer": "<p>Code: Apache-2.0 · Text: CC BY 4.0</p>",
    "footer_content_items": ["extra-footer.html"],
    "navbar_persistent": [],
    "use_download_button": False,
}
templates_path = ["_templates"]
html_static_path = [str(ASSETS / "vendor"), str(ASSETS / "math.js"), "static"]
html_css_files = ["katex/katex.min.css", "site.css"]
html_js_files = ["katex/katex.min.js", "katex/auto-render.min.js", "math.js", "site.js"]
html_math_renderer = "katex"
html_copy_source = html_show_sourcelink = False
# Search results would fetch their summaries, which a page opened from a disk may not.
html_show_search_summary = False


class ChineseSearch(SearchChinese):
    """Index Chinese without a word list: pairs of characters, and whole runs in which longer words are found."""

    # Names the stemmer that Sphinx writes into the page; its own value names one that does not exist
    # (https://github.com/sphinx-doc/sphinx/issues/14229).
    language_name = "English"

    def split(self, input: str) -> list[str]:
        """Split a text into the terms by which it is found."""
        runs = re.findall(r"[\u3400-\u9fff]+", input)
        return [*super().split(input), *runs, *(run[i : i + 2] for run in runs for i in range(len(run) - 1))]


def inline_math(page: HTML5Translator, node: nodes.math) -> None:
    """Leave a formula in a line to KaTeX."""
    page.body.append(rf'<span class="formula">\({page.encode(node.astext())}\)</span>')
    raise nodes.SkipNode


def block_math(page: HTML5Translator, node: nodes.math_block) -> None:
    """Leave a displayed formula to KaTeX."""
    page.body.append(rf'<div class="formula">\[{page.encode(node.astext())}\]</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the Chinese search and the formulas: Sphinx's own renderer loads MathJax, three times the size."""
    app.add_search_language(ChineseSearch)
    app.add_html_math_renderer("katex", (inline_math, None), (block_math, None))
