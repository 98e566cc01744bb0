"""Tables for papers: what LaTeX reads is what the report says."""

from __future__ import annotations

import pytest

from subquad.report.latex import escaped, is_table, latex
from subquad.report.markdown import escape, table


def test_a_table_keeps_its_cells_and_its_sides():
    text = latex(table(["variant", "time"], [["full_naive", "1.2 ms"]], right=["time"]), "A & B", "a-1")
    assert r"\begin{tabular}{lr}" in text
    assert r"variant & time \\" in text
    assert r"full\_naive & 1.2 ms \\" in text
    assert r"\caption{A \& B}" in text
    assert r"\label{tab:a-1}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a|b", r"a\textbar{}b"),
        ("50 % & $x_1$ #2", r"50 \% \& \$x\_1\$ \#2"),
        ("{x}~^", r"\{x\}\textasciitilde{}\textasciicircum{}"),
        ("<script>", r"\textless{}script\textgreater{}"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("`a` *b*", "`a` *b*"),
    ],
)
def test_no_name_becomes_a_command(name, written):
    text = latex(table(["variant"], [[escape(name)]]), "c", "l")
    assert f"    {written} \\\\" in text.splitlines()


def test_bold_is_bold_and_signs_are_signs():
    assert r"\textbf{full\_sdpa}, or b \\" in latex(table(["x"], [["**full_sdpa**, or b"]]), "c", "l")
    assert escaped("1.000 [0.9, 1] ●") == r"1.000 [0.9, 1] $\bullet$"


def test_what_is_no_table_is_refused():
    assert not is_table("| a |")
    assert not is_table("text\nmore")
    with pytest.raises(ValueError, match="not a Markdown table"):
        latex("text\nmore", "c", "l")
