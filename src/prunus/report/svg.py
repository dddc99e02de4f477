"""A Matplotlib figure as SVG that may stand inside an HTML page and follows the page's colours and font."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from prunus.report.charts import GRID, INK, MUTED, PALE, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PALE: "var(--pale)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)},
}


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The ``<svg>`` element of ``figure``, with ``description`` as its text for screen readers.

    Nothing in it points outside the page: no namespaces, no metadata, no fonts. ``name`` keeps the ids of several
    figures on one page apart. The colours of :mod:`prunus.report.charts` become the page's CSS variables.
    """
    import matplotlib

    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name}
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", text, count=2)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    label = escape(description, {'"': "&quot;"})
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
