"""Each rule of writing: what it mends, as (label, right answer, wrong answer), and what it must not touch."""

from __future__ import annotations

import pytest

from lens_openrlhf.rewards import notation
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


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        (".", ""),
        ("$5$", "5"),
        ("$$5$$", "5"),
        (r"\(5\)", "5"),
        (r"\[5\]", "5"),
        ("**5**", "5"),
        ("`5`", "5"),
        ("“5”", "5"),
        (" 5 ", "5"),
        ("5.", "5"),
        ("5.5.", "5.5"),
        ("5,", "5"),
        ("5;", "5"),
        ("5:", "5"),
        ("5。", "5"),
        ("5，", "5"),
        ("5；", "5"),
        ("5\\\\", "5"),
        (r"5\,", "5"),
        ("5~", "5"),
        ("= 5", "5"),
        ("=5", "5"),
        (r"\displaystyle 5", "5"),
        (r"\displaystylex", r"\displaystylex"),
        ("the answer is 5", "5"),
        ("The solution is: 5", "5"),
        ("Solutions are $5$", "5"),
        (r"Answer is \frac12", r"\frac12"),
        ("answer is x", "answer is x"),
        ("answers are (5)", "(5)"),
        ("$5", "$5"),
        ("$5$ and $6$", "$5$ and $6$"),
        ("$$5$$$", "5$"),
        ("..5", "..5"),
        ("5...", "5..."),
        ("5..", "5.."),
        ("x.", "x"),
        ("x...", "x..."),
        ("$", "$"),
        ("$$", "$$"),
        ("", ""),
        ("**", "**"),
        ("$(5)$.", "(5)"),
        ("“$5$”", "5"),
        ("the solution is [5]", "[5]"),
    ],
)
def test_what_stands_around_an_answer(text, bare):
    assert notation.undelimited(text) == bare


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("A>B>C", "C<B<A"),
        ("A>B", "A>B"),
        (r"a\gt b\gt c", " c< b<a"),
        (r"a\geq b>c", r"c< b\leq a"),
        (r"a\ge b\ge c", r" c\leq  b\leq a"),
        ("a>b>c|", "a>b>c|"),
        ("a>b<c", "a>b<c"),
        ("a>b>c<d", "a>b>c<d"),
        (r"a>b>c\le d", r"a>b>c\le d"),
        ("a>>b>c", "a>>b>c"),
        ("a>bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb>c", "c<bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb<a"),
        ("a>bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb>c", "a>bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb>c"),
        (r"a\gtr b>c>d", r"d<c<a\gtr b"),
        ("x>y>{z}", "x>y>{z}"),
        ("x>y,z>w>v", "x>y,z>w>v"),
    ],
)
def test_chains_are_turned_upwards(text, written):
    assert notation._upwards(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2:4:6", "(1, 2, 3)"),
        ("1:2", "1:2"),
        ("1:2:3:4", "(1, 2, 3, 4)"),
        ("2 : 4 : 6", "(1, 2, 3)"),
        ("1:2:3:4:5:6:7:8:9:10:11", "1:2:3:4:5:6:7:8:9:10:11"),
        ("0:0:1", "(0, 0, 1)"),
        ("1:2:a", "1:2:a"),
        ("1234567890:1:2", "1234567890:1:2"),
        ("10:20:30", "(1, 2, 3)"),
    ],
)
def test_ratios_of_three_and_more_are_points(text, written):
    assert notation._ratio(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("x<1 or x>2", r"(-\infty,1)\cup(2,\infty)"),
        ("x>2 or x<1", r"(2,\infty)\cup(-\infty,1)"),
        (r"x\le 1 or x\geq 2", r"(-\infty,1]\cup[2,\infty)"),
        (r"x \leq 1 \text{ or } x \ge 2", r"(-\infty,1]\cup[2,\infty)"),
        (r"x\lt 1\ or\ x\gt 2", r"(-\infty,1)\cup(2,\infty)"),
        (r"x<1 \mbox{or} x>2", r"(-\infty,1)\cup(2,\infty)"),
        ("x<1 or y>2", "x<1 or y>2"),
        ("x<1 and x>2", "x<1 and x>2"),
        ("x<1 or x<2 or x<3", "x<1 or x<2 or x<3"),
        (r"x<\frac{1}{2} or x>\sqrt{2}", r"(-\infty,\frac{1}{2})\cup(\sqrt{2},\infty)"),
        ("x=1 or x>2", "x=1 or x>2"),
    ],
)
def test_relations_with_or_are_unions(text, written):
    assert notation._union(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2e-3", "2e-3"),
        ("1e-3", None),
        ("12e+4", "12e+4"),
        ("2e3", None),
        ("x2e-3", None),
        ("2e-3.5", None),
        ("2.e-3", None),
        ("(5e-7, 3e-2)", "5e-7"),
        ("1e5", None),
        ("2e-33", None),
        ("0.2e-3", None),
    ],
)
def test_what_has_two_readings(text, written):
    assert notation.ambiguous(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("it is 2 1/2 or ½", r"it is $2\frac{1}{2}$ or $\frac{1}{2}$"),
        ("$x²$ and 3×4", "$x^{2}$ and 3×4"),
        ("it is 3.89e-10.", r"it is $3.89 \times 10^{-10}$."),
        ("it is 2 x 10^5", r"it is $2 \times 10^5$"),
        ("it is 12,000 in $12,000$", "it is 12,000 in $12000$"),
        (r"0.\overline{6} it is", r"$\frac{2}{3}$ it is"),
        ("a.5e3", "a.5e3"),
        (r"\(½\) \[½\] $$½$$", r"\(\frac{1}{2}\) \[\frac{1}{2}\] $$\frac{1}{2}$$"),
        ("2½x", "2½x"),
        ("−5 and “5”", "-5 and “5”"),
        ("-2 1/2", r"$-2\frac{1}{2}$"),
    ],
)
def test_numbers_and_formulas_in_prose(text, written):
    assert notation.prose(text) == written


@pytest.mark.parametrize(
    ("text", "value", "behind"),
    [
        ("5", "5", ""),
        ("-0.5", "-0.5", ""),
        ("0.123456", "0.123456", ""),
        ("00", "00", ""),
        ("$5$", "5", ""),
        ("5$", "5", ""),
        ("$5 cm", "5", " cm"),
        ("5 cm", "5", " cm"),
        ("$5$ cm", "5", "  cm"),
        (r"\$5", "5", ""),
        (r"5 $\pi$", r"5  \pi", ""),
        (r"\text{5 apples}", "5", " apples"),
        (r"\mbox{5 cm}", "5", " cm"),
        (r"\{x | x > 3\}", "x > 3", ""),
        (r"\{x\in\mathbb{R} : x > 3\}", "x > 3", ""),
        (r"\{x \mid x^2 > {3}\}", "x^2 > {3}", ""),
        (r"\{a: a<1\text{ or }a>2\}", r"(-\infty,1)\cup(2,\infty)", ""),
        (r"\{xy | x > 3\}", r"\{xy | x > 3\}", ""),
        ("x=6 hours", "x=6", " hours"),
        ("x = -6 cm", "x = -6", " cm"),
        ("xy=6 cm", "xy=6 cm", ""),
        ("ABCD", r"\text{ABCD}", ""),
        ("A:B:C", r"\text{A:B:C}", ""),
        ("AB", r"\text{AB}", ""),
        ("A", "A", ""),
        ("Monday", r"\text{Monday}", ""),
        ("no solution", r"\text{no solution}", ""),
        ("yes", r"\text{yes}", ""),
        ("always true for all", r"\text{always true for all}", ""),
        ("even number", r"\text{even number}", ""),
        (
            "Monday is the first day of the week for all people in it",
            "Monday is the first day of the week for all people in it",
            "",
        ),
        ("triangle", r"\text{triangle}", ""),
        ("sin", "sin", ""),
        ("xyz", "xyz", ""),
        ("xyzw", "xyzw", ""),
        ("infinity", "infinity", ""),
        ("alpha", "alpha", ""),
        ("①②", "1,2", ""),
        (r"\textcircled{1}\textcircled{2}", "1,2", ""),
        ("①、③", "1,3", ""),
        ("1./3", "1/3", ""),
        ("2;3", "2,3", ""),
        (r"\text{Monday.}", r"\text{Monday}", ""),
        (r"\text{Mo.}", r"\text{Mo.}", ""),
        ("A>B>C", "C<B<A", ""),
        ("3:6:9 cm", "3:6:9 cm", ""),
        ("Never", r"\text{Never}", ""),
        ("true", r"\text{true}", ""),
        ("odd", r"\text{odd}", ""),
        ("abc defg", r"\text{abc defg}", ""),
        ("a b", "a b", ""),
    ],
)
def test_a_whole_answer(text, value, behind):
    assert notation.whole_and_unit(text) == (value, behind) and whole(text) == value


def test_an_answer_as_long_as_anybody_writes():
    assert notation.whole_and_unit("5" * (MAX_CHARS - 3) + " cm") == ("5" * (MAX_CHARS - 3), " cm")
    long = "5" * (MAX_CHARS - 2) + " cm"
    assert notation.whole_and_unit(long) == (long, "") and MAX_CHARS == 2_000


@pytest.mark.parametrize(
    ("text", "label", "written"),
    [
        ("R-r", "R-r", "R_{0}-r"),
        ("R^2-r^2", r"\pi(R^2-r^2)", "R_{0}^2-r^2"),
        ("R_1-r", "R-r", "R_1-r"),
        ("r", "R", "r"),
        ("(1+i)^2", "2i", "(1+ I )^2"),
        ("1+i", "x+i", "1+i"),
        ("e^i", "e^{i}", "e^ I "),
        ("e", "e", "e"),
        ("Monday", r"\text{Monday}", r"\text{Monday}"),
        ("Monday", r"$\mathrm{Sun}$ ", r"\text{Monday}"),
        ("Mon day", r"\text{Monday}", "Mon day"),
        ("M", r"\text{Monday}", "M"),
        (r"\sin R+r", r"\sin R+r", r"\sin R_{0}+r"),
        ("Monday", "Monday", "Monday"),
        (r"\text{R}R", "Rr", r"\text{R}R_{0}"),
        ("i", r"\text{i}", "i"),
        ("i_1", "i", " I _1"),
        ("Monday", r"\text{A}", "Monday"),
        ("Monday", r"\textbf{ab cd}", r"\text{Monday}"),
        (r"\pi i", r"2\pi i", r"\pi  I "),
        ("5", "Rr", "5"),
    ],
)
def test_letters_as_the_label_has_them(text, label, written):
    assert notation.like(text, label) == written
