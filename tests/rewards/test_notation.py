"""Each rule of writing: what it mends, as (label, right answer, wrong answer), and what it must not touch."""

from __future__ import annotations

import pytest

from lens_openrlhf.rewards.grading import box, grade
from lens_openrlhf.rewards.notation import MAX_CHARS, whole

MENDED = [
    # signs that the parser does not know
    ("-5", "–5", "5"),
    ("5", "５", "６"),
    (r"\infty", "∞", "-∞"),
    ("12", "3×4", "3×5"),
    ("x^2", "x²", "x³"),
    (r"\sqrt{2}", "√2", "√3"),
    ("2.5", "2½", "2⅓"),
    ("90", "90°", "91°"),
    ("90", r"90^{\degree}", r"91^{\degree}"),
    ("90", r"90^\circ C", r"91^\circ C"),
    ("12000", "12\u202f000", "12\u202f001"),
    # other names
    (r"\emptyset", r"\varnothing", "0"),
    ("2", r"\lg 100", r"\lg 10"),
    (r"x\leq 5", r"x\leqslant 5", r"x\geqslant 5"),
    ("120", "C_{10}^{3}", "C_{10}^{4}"),
    ("A>B>C", "C<B<A", "A<B<C"),
    ("2,3", "②③", "①③"),
    # upright constants
    (r"$1-5\mathrm{i}$", "1-5i", "-4"),
    (r"$1-5\mathrm{i}$", "-5i+1", "1+5i"),
    (r"\mathrm{e}^{2}", "e^2", "e^3"),
    (r"\frac15+\frac25 i", r"\frac{1+2i}{5}", r"\frac{1-2i}{5}"),
    (r"\mathbf{5}", "5", "6"),
    # thousands and decimals
    (r"12\,000", "12000", "0"),
    ("12 000", "12000", "12001"),
    (r"1{,}234{,}567", "1234567", "1234568"),
    ("1.234.567", "1234567", "1.234567"),
    (r"3{,}14", "3.14", "314"),
    # powers of ten
    ("3.89e-10", r"3.89\times 10^{-10}", "0.574116"),
    ("3.89e-10", "0.000000000389", "0"),
    ("3.89e-10", "3.89E-10", "3.88e-10"),
    ("6.02E23", r"6.02 x 10^23", r"6.02\times 10^{22}"),
    ("0.001", "10^-3", "10^-4"),
    ("2000000", r"2\text{ million}", r"2\text{ billion}"),
    # repeating decimals
    (r"\frac23", r"0.\overline{6}", "0.6"),
    (r"\frac16", r"0.1\dot{6}", r"0.\dot{1}\dot{6}"),
    (r"\frac17", r"0.\dot{1}4285\dot{7}", r"0.\dot{1}4285\dot{6}"),
    # mixed numbers
    (r"\frac52", "2 1/2", r"\frac32"),
    ("2.5", r"2\ 1/2", r"2\ 1/3"),
    # per cent and money
    (r"12.5\%", "12.5", "0.0125"),
    (r"12.5\%", r"12.5\text{ percent}", r"12.6\text{ percent}"),
    (r"50\%", r"50 \%", r"5 \%"),
    ("5", "£5", "£6"),
    ("5", "5 €", "6 €"),
    ("5", "5 dollars", "6 dollars"),
    # a stop at the end, and what else stands around
    ("5", "5.", "6."),
    (r"\frac12", r"\frac12 .\ ", r"\frac13."),
    (r"\text{Monday}", r"\text{Monday.}", r"\text{Sunday.}"),
    ("5", "= 5", "= 6"),
    ("-1./3", r"-\frac13", r"\frac13"),
    # labels partly in dollars
    (r"5 $\pi$", r"5\pi", r"\pi"),
    ("$5$;$10$", "5,10", "10"),
    ("20 $cm^{2}$", r"20\text{ cm}^2", "2"),
    ("$2$ or $-2$", "2,-2", "2"),
    # units, and variables that look like them
    ("10", r"10\text{ cm}^2", r"11\text{ cm}^2"),
    ("9.8", r"9.8\ \mathrm{m}/\mathrm{s}^{2}", r"8.9\ \mathrm{m}/\mathrm{s}^{2}"),
    ("5", "5 m/s", "6 m/s"),
    ("5", r"5^{\text{th}}", r"6^{\text{th}}"),
    (r"\frac13\pi r^2h", r"\frac{\pi r^2 h}{3}", r"\frac13\pi r^2"),
    ("2+3d", "3d+2", "5"),
    ("2bc", "2cb", "2ab"),
    ("2t", "2t", "2"),
    (r"10\text{ a.m.}", r"10\text{ a.m.}", r"10\text{ p.m.}"),
    (r"n\text{ is odd}", r"n\text{ is odd}", r"n\text{ is even}"),
    # words and letters are no products
    (r"\text{Monday}", "Monday", "Madyno"),
    ("no solution", r"\text{no solution}", "on solution"),
    ("ABCD", r"\text{ABCD}", "CABD"),
    ("ACD", "A, C, D", "A, C, B"),
    # tiny numbers
    (r"\frac{1}{2^{99}}", "2^{-99}", r"\frac{1}{2^{98}}"),
    (r"\{10^{-9},1\}", r"1,\frac{1}{10^9}", r"\{10^{-8},1\}"),
    (r"[0,10^{-9}]", r"[0,0.000000001]", r"[0,10^{-8}]"),
    (r"\frac{1}{300}", "0.003333", "0.0033"),
]


@pytest.mark.parametrize(("label", "right", "wrong"), MENDED)
def test_what_a_rule_mends(label, right, wrong):
    for answer in (right, label):
        assert grade(box(answer), label)[0] == "correct", answer
    assert grade(box(wrong), label)[0] != "correct"
    assert grade(f"Hence {wrong} holds, no: $\\boxed{{{right}}}$.", label)[0] == "correct"


@pytest.mark.parametrize(
    "text",
    [
        "5", "-0.25", "123456", r"\frac{1}{2}", "x^{2}+1", "(1,2)", r"\{1,2\}", "[0,1)", "x=5", "y=2x+1",
        "1,2,345", "1,2", "1 2 3", "3–5", "1.234", "12 34", "0 000", "2bc", "abc", "2e", "2e^{3}", "xe-5", "5!", "n!",
        "0.666...", r"\overline{AB}", r"x_{1}", r"x_\text{max}", "C_1^2", "101_2", "2-1/2", "x 1/2", r"2 \sin x",
        "2 pi", "3x 10", r"\mathbb{R}", r"\text{even}", r"5\text{ more}", r"1 \text{ (mod } 7)", r"a\text{ or }b", "A",
        "f(x)", r"\begin{pmatrix}1 & 2\\3 & 4\end{pmatrix}", "A<B<C", "1<x<3", "x>3", r"\{x \mid x \in A\}", "i", "xi",
        r"\sin x", r"\text{A}", "5m", "5h", "C_{n}^{k}", r"\vec{i}", "a.b", "10^{12}",
    ],
)  # fmt: skip
def test_what_no_rule_touches(text):
    assert whole(text) == text


def test_what_nobody_reads_stays():
    long = "12 000+" * MAX_CHARS
    assert whole(long) == long


@pytest.mark.parametrize(
    "piece", ["1", "1 ", "1,", ".1", "\\", "\\\\", ":", "$", "$ ", "\\(", "\\[", "{", "\\text{", "½"]
)
def test_rules_end(piece):
    """Quadratic patterns took seconds on these; what is left takes milliseconds."""
    text = piece * (MAX_CHARS // len(piece))
    assert isinstance(whole(text), str) and isinstance(whole(text[:-1] + "x"), str)
