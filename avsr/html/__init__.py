"""Pages, tables and plots, shared by `avsr explain` and `avsr report`: one HTML file a page, which needs no other file.

    table (columns and rows), plot (colours, figure -> SVG); here: templates, recordings as data URIs, word edits
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any


def render(template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """The page that a template, named by its path in the package, makes of these values."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("avsr", "."), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= filters
    return environment.get_template(template).render(**values)


def data_uri(data: bytes, kind: str) -> str:
    """A file's content as an address. kind: its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def word_edits(reference: str, hypothesis: str) -> list[dict[str, str]]:
    """The words of a hypothesis in order, and those of the reference that it lacks, each as "word" with its "edit": equal,
    substitution, insertion or deletion. Both texts are normalised."""
    import jiwer

    said, written, out = reference.split(), hypothesis.split(), []
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        edit = {"substitute": "substitution", "insert": "insertion", "delete": "deletion"}.get(chunk.type, "equal")
        here = said[chunk.ref_start_idx:chunk.ref_end_idx], written[chunk.hyp_start_idx:chunk.hyp_end_idx]
        out += [{"word": word, "edit": edit} for word in here[edit != "deletion"]]
    return out
