"""Figures and tables by themselves: nothing lies over anything else, and numbers read as they should."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import made_rows
import numpy as np
import pytest
from made_rows import Made

from avsr.html import word_edits
from avsr.html.plot import FORMATS, MODALITY_COLOURS, OTHER_COLOURS, file_bytes, plot_style, svg_element
from avsr.html.table import Column, Table, csv_text, markdown, show
from avsr.metrics import NOTHING, Estimate, Gain, Rate, wer
from avsr.report import ReportSettings, figures, make_sections, render_page
from avsr.report.result_table import ResultTable
from avsr.report.runs import Run
from avsr.report.sheet import NARROW, WIDTH
from avsr.report.tables import Section

MADE = {
    "two that see": Made(30, 10, ("a rather long name of a system", "grid", "faster-whisper:tiny.en"), ("babble", "music"),
                         (None, 0.0, -10.0), (("occlusion", 0.5), ("shift", -200.0), ("shift", 200.0), ("face", None)),
                         seeing=2),
    "four noises": Made(30, 10, ("grid",), ("babble", "music", "natural", "talker"), (None, 20.0, 0.0, -10.0), ()),
}


@pytest.fixture(scope="module", params=MADE)
def sheets(request):
    made = MADE[request.param]
    results = ResultTable(list(made_rows.rows(made)))
    run = Run("run", Path("run"), list(results.rows), list(made_rows.timings(made)))
    with plot_style():
        sections = make_sections([run], results, ReportSettings(("sex",)))
        return {name: sheet for section in sections for name, sheet in section.sheets.items()}


def boxes(sheet):
    """Of everything that is written, by panel (None: the legend), in points from the lower left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Affine2D

    canvas, points = FigureCanvasAgg(sheet.figure), Affine2D().scale(72 / sheet.figure.dpi)
    canvas.draw()
    out = []
    for number, axis in enumerate(sheet.axes):
        ticks = [tick.label1 for one, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim()))
                 for tick in one.get_major_ticks() if min(limits) <= tick.get_loc() <= max(limits)]
        texts = [axis.xaxis.label, axis.yaxis.label, axis._left_title, *ticks]
        out += [(number, text) for text in texts if text.get_text()]
    out += [(None, text) for legend in sheet.figure.legends for text in legend.get_texts()]
    return [(panel, text.get_text(), text.get_window_extent(canvas.get_renderer()).transformed(points)) for panel, text in out]


@pytest.mark.slow
def test_what_is_written_stays_in_its_panel_and_lies_over_nothing(sheets):
    assert {"wer", "reliability", "speed", "groups", "contribution", "visemes"} <= set(sheets)
    for name, sheet in sheets.items():
        with plot_style():
            found = boxes(sheet)
        height = 72 * sheet.figure.get_figheight()
        panels = sheet.boxes()
        for panel, text, box in found:
            if panel is None:
                assert box.x0 >= 0, (name, text)
                assert box.x1 <= 72 * sheet.width + 1, (name, text)
                assert box.y1 <= height + 1, (name, text)
                assert height - box.y0 <= panels[0][1] + 1, (name, text)     # above all panels
                continue
            left, top, wide, high = panels[panel]
            assert left - 2 <= box.x0, (name, text)
            assert box.x1 <= left + wide + 8, (name, text)
            assert top - 1 <= height - box.y1, (name, text)
            assert height - box.y0 <= top + high + 1, (name, text)
        for i, (_, one, first) in enumerate(found):
            for _, two, second in found[i + 1:]:
                across = min(first.x1, second.x1) - max(first.x0, second.x0)
                up = min(first.y1, second.y1) - max(first.y0, second.y0)
                assert across <= 0.5 or up <= 2.0, (name, one, two)


def test_figures_are_as_wide_as_a_page_or_a_column(sheets):
    for sheet in sheets.values():
        assert sheet.figure.get_figwidth() == (NARROW if sheet.columns == 1 else WIDTH)
        assert all(left >= 0 and left + wide <= 72 * sheet.width + 0.1 for left, _, wide, _ in sheet.boxes())


def test_files_are_of_their_format_and_the_page_has_colours_of_its_own(sheets):
    sheet = sheets["speed"]
    with plot_style():
        found = {kind: file_bytes(sheet.figure, kind) for kind in FORMATS}
    assert found["png"].startswith(b"\x89PNG")
    assert found["pdf"].startswith(b"%PDF")
    svg = found["svg"].decode()
    assert MODALITY_COLOURS["av"] in svg
    page = svg_element(found["svg"], "speed")
    assert page.startswith("<svg viewBox=")
    assert 'aria-labelledby="speed-caption"' in page
    assert "var(--both)" in page
    assert not [colour for colour in (*MODALITY_COLOURS.values(), *OTHER_COLOURS) if colour in page]
    assert "<text" in page


def test_colours_are_apart_in_grey_and_to_those_who_see_fewer():
    """Lightness (CIELAB L*) of sound, video and both, whose lines may lie on each other, differs by 7 at least; so do the hues
    that are left without red or without green (Vienot 1999)."""
    from matplotlib.colors import to_rgb

    def linear(colour):
        part = np.array(to_rgb(colour))
        return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)

    def lab(rgb):
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
        f = np.cbrt(xyz / [0.9505, 1, 1.089])
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    colours = [linear(colour) for colour in MODALITY_COLOURS.values()]
    kinds = [np.eye(3), np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
             np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])]
    for kind in kinds:
        seen = [lab(np.clip(kind @ colour, 0, 1)) for colour in colours]
        for i, one in enumerate(seen):
            for two in seen[i + 1:]:
                assert np.linalg.norm(one - two) > 25
    lights = sorted(lab(colour)[0] for colour in colours)
    assert np.diff(lights).min() > 7


# --- tables ---

RATE = Rate(12.34, 10.06, 14.96, 4, "speaker", NOTHING)


@pytest.mark.parametrize(("value", "pattern", "text"), [
    (RATE, ".1f", "12.3 (10.1 to 15.0)"), (Rate(-2.4, -4.2, 0.04, 4, "speaker", NOTHING), "+.1f", "−2.4 (−4.2 to 0.0)"),
    (Rate(None, None, None, 0, "speaker", NOTHING), ".1f", "–"), (Rate(5.0, None, None, 1, "speaker", NOTHING), ".1f", "5.0"),
    (Estimate(0.5, 0.25, 1.0), ".2f", "0.50 (0.25 to 1.00)"), (Estimate(0.5, None, None), ".2f", "0.50"),
    (Gain(4.7, 3.0, math.inf, (-10.0, 20.0)), "", "+4.7 (+3.0 to > +20.0)"),
    (Gain(math.inf, math.inf, math.inf, (-10.0, 20.0)), "", "> +20.0"),
    (Gain(-math.inf, None, None, (-10.0, 20.0)), "", "< −10.0"), (Gain(math.inf, 1.0, math.inf, (-30.0, 0.0)), "", "–"),
    (None, ".1f", "–"), (math.nan, ".1f", "–"), (-0.04, ".1f", "0.0"), (-10.0, "g", "−10"), (1234567, "", "1,234,567"),
    ("clean", "g", "clean"), (0.0004, "p", "< 0.001"), (0.05, "p", "0.050")])
def test_values_read_as_they_should(value, pattern, text):
    assert " ".join(filter(None, show(value, pattern))) == text


def test_markdown_and_csv_hold_the_same():
    columns = {"system": Column(None, "s"), "noise": Column("noise", "s"), "wer": Column("WER %"), "n": Column("n")}
    rows = [{"system": "grid", "noise": "a|b", "wer": RATE, "n": 7},
            {"system": "grid", "noise": "x\ny", "wer": None, "n": None}]
    table = Table("main", "A | B", columns, rows, "A note.", highlighted=[0], strong={1: ("noise",)})
    title, _, head, rule, *lines = markdown(table).splitlines()
    assert title == "**A \\| B**"
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["noise", "WER %", "n"]
    assert [(cell[0], cell[-1]) for cell in rule.strip("|").split("|")] == [(":", "-"), ("-", ":"), ("-", ":")]
    assert [line.replace(" ", "") for line in lines] == [
        "|**a\\|b**|**12.3(10.1to15.0)**|**7**|", "|**xy**|–|–|", "", "Anote."]
    assert {len(line) for line in (head, rule, *lines[:2])} == {len(head)}                   # columns are in line
    other = Table("main", "", {"system": Column(None), "more": Column("more")}, [{"system": "tiny", "more": 1.5}])
    lines = list(csv.DictReader(io.StringIO(csv_text([table, other]))))
    assert lines[0] == {"system": "grid", "noise": "a|b", "wer": "12.34", "wer_low": "10.06", "wer_high": "14.96", "n": "7",
                        "more": ""}
    assert lines[1]["noise"] == "x\ny"
    assert lines[1]["wer"] == ""
    assert lines[2]["more"] == "1.5"


@pytest.mark.parametrize(("reference", "hypothesis", "edits"), [
    ("bin blue at f", "bin red at f now",
     [("bin", "equal"), ("red", "substitution"), ("at", "equal"), ("f", "equal"), ("now", "insertion")]),
    ("bin blue", "blue", [("bin", "deletion"), ("blue", "equal")]),
    ("bin", "", [("bin", "deletion")]),
    ("", "thank you", [("thank", "insertion"), ("you", "insertion")])])
def test_words_have_their_edits(reference, hypothesis, edits):
    assert word_edits(reference, hypothesis) == [{"word": word, "edit": edit} for word, edit in edits]


def test_amounts_go_from_harmless_to_harmful():
    rows = list(made_rows.rows(Made(12, 6, ("grid",), ("babble",), (None, 0.0, -10.0), (("occlusion", 0.5), ("shift", -80.0)))))
    rows = [replace(row, corruption="lowres", amount=12.0) if row.corruption == "occlusion" else row for row in rows]
    results = ResultTable([*rows, *(replace(row, amount=24.0) for row in rows if row.corruption == "lowres")])
    assert results.levels("babble") == [None, 0.0, -10.0]
    assert results.corruptions == [("lowres", 12.0), ("lowres", 24.0), ("shift", -80.0)]
    with plot_style():
        pixels, shift = figures.corruption_sheet(results).axes
        assert [label.get_text() for label in pixels.get_xticklabels()] == ["none", "24", "12"]     # fewer pixels are worse
        assert [label.get_text() for label in shift.get_xticklabels()] == ["−80", "none"]
    assert results.percent(results.find("grid", "av", ("babble", 0.0))) == wer(
        [row for row in rows if (row.modality, row.snr_db, row.corruption) == ("av", 0.0, None)],
        rng=np.random.default_rng(0)).percent


def test_rates_far_apart_are_drawn_on_a_scale_of_roots():
    rows = list(made_rows.rows(Made(12, 6, ("grid",), ("babble",), (None, 0.0, -10.0), ())))
    said = [replace(row, hypothesis=row.reference) if row.modality == "av" and row.id != "s1-00000" else row for row in rows]
    with plot_style():
        near, far = figures.wer_sheet(ResultTable(rows)), figures.wer_sheet(ResultTable(said))
        assert near.axes[0].get_yscale() == "linear"
        (axis,) = far.axes
        pages = [render_page([Section("wer", "WER", {"wer": sheet})], title="", facts=[], findings=[], warnings=[], runs=[])
                 for sheet in (near, far)]
    assert axis.get_yscale() == "function"
    assert axis.get_ylabel() == "word error rate, % (root scale)"
    assert ["of square roots" in page for page in pages] == [False, True]
