"""Markdown into a page: nothing foreign passes through, tables and headings are named."""

from __future__ import annotations

import base64

from subquad.report.markdown import escape, table
from subquad.report.page.markup import inline, picture, sections, to_html

EVIL = '<script>alert(1)</script> <img src=x onerror=y> [a](javascript:b) "q" | `c` *d* &lt;'


def test_hostile_text_reads_as_it_is_and_is_no_markup():
    page = to_html(table([escape(EVIL)], [[escape(EVIL)]]) + "\n\n" + escape(EVIL), {}, "t")
    assert "<script" not in page
    assert "<img" not in page
    assert "<a " not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert "javascript:b" in page


def test_even_unescaped_text_is_no_markup():
    assert "<script" not in to_html(EVIL, {}, "t")
    assert "<a " not in inline("[a](http://x) <http://y>")


def test_every_table_can_be_scrolled_and_has_a_name_of_its_own():
    blocks = ["**first title**", "words", table(["a"], [["1"]]), "### second", table(["b"], [["2"]])]
    page = to_html("\n\n".join([table(["c"], []), *blocks]), {}, "section")
    regions = [part.split('"')[0] for part in page.split('tabindex="0" aria-label="')[1:]]
    assert regions == ["section (table 1)", "first title (table 2)", "second (table 3)"]
    assert page.count("<table>") == page.count("</table></div>") == 3
    assert page.count('scope="col"') == 3


def test_numbers_align_by_class_and_not_by_style():
    page = to_html(table(["a", "b"], [["1", "2"]], right=["b"]), {}, "t")
    assert page.count('class="number"') == 2
    assert "style=" not in page


def test_sections_have_ids_that_do_not_repeat():
    title, lead, found = sections(["# All", "before", "## A & b", "x", "## A & b", "y", "### c"])
    assert lead == ["before"]
    assert title == "All"
    assert [(s.id, s.blocks) for s in found] == [("a-b", ["x"]), ("a-b-2", ["y", "### c"])]


def test_the_scale_of_a_glyph_is_not_rounded():
    scaled = '<use transform="translate(12.34567 0) scale(0.015625)"/>'
    content = base64.b64decode(picture(scaled).partition(",")[2]).decode()
    assert content == '<use transform="translate(12.35 0) scale(0.015625)"/>'


def test_a_picture_is_in_the_page_and_keeps_a_hundredth_of_a_point():
    address = picture('<svg><path d="M 1.23456 -0.0004 L 100.5 2.999999"/></svg>')
    kind, _, content = address.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(content) == b'<svg><path d="M 1.23 -0.0004 L 100.5 3"/></svg>'
    page = to_html("![a figure](figures/a.png)", {"figures/a.png": address}, "t")
    assert f'src="{address}"' in page
    assert 'alt="a figure"' in page
