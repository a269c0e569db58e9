r"""Labels of our own, by kind, with right answers and wrong ones that a marker would not doubt.

An answer is what stands in the box, or a whole response, if it has a box, a tag or the word "answer" of its own. To
these `cases.make` adds what its rules make of the label.

Nearly all of it is the table of them, which is why it is long.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .cases import Case, make


class Own(NamedTuple):
    kind: str
    label: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


OWN = (
    # Where the answer stands.
    Own(
        "boxes",
        "17",
        (
            r"\boxed{16}. No: \boxed{17}",
            r"\boxed{17} and \boxed{17}",
            r"\boxed{\boxed{17}}",
            r"\\boxed{17}",
            r"**\boxed{17}**",
        ),
        (
            r"\boxed{17}. No: \boxed{16}",
            r"\boxed{17}, \boxed{18} and \boxed{19}",
            r"\boxed{16} or \boxed{17}",
            r"\boxed{}",
        ),
    ),
    Own(
        "boxes, one answer",
        "3,5,7",
        (r"\boxed{3}, \boxed{5} and \boxed{7}", r"$\boxed{3}$, $\boxed{5}$, $\boxed{7}$", r"\boxed{3, 5, 7}"),
        (r"\boxed{3}, \boxed{5}", r"\boxed{3} and \boxed{7}", r"\boxed{7}", r"\boxed{3}, \boxed{5} and \boxed{8}"),
    ),
    Own(
        "box cut off",
        "5",
        (r"\boxed{5}",),
        (r"\boxed{5} \ldots \boxed{\frac{7}{", r"\boxed{5", r"\boxed{5}, then \fbox{"),
    ),
    Own(
        "box with its stop",
        "5",
        (r"\boxed{5.}", r"\fbox{5}", r"\fbox{5.}", r"\boxed{ 5. }"),
        (r"\boxed{5.1}", r"\fbox{6}"),
    ),
    Own(
        "thinking",
        "7",
        (
            r"<think>perhaps \boxed{5}?</think>The answer is 7.",
            r"<think>so 5.</think><answer>7</answer>",
            "<think>5</think>\n\n**Answer:** 7",
            r"<think>\boxed{5}</think> $\boxed{7}$",
        ),
        (
            r"<think>\boxed{7}</think>The answer is 5.",
            r"<think>so 7.</think><answer>5</answer>",
            r"<think>\boxed{7}",
            "<answer></answer>",
        ),
    ),
    Own(
        "no box",
        r"\frac{3}{8}",
        ("The answer is 3/8.", "The final answer is $\\frac{3}{8}$.", "So the answer is 0.375", "**Answer:** $3/8$"),
        ("The answer is 3.", "The answer is 8/3.", "The final answer is $\\frac{3}{8}\\pi$.", "There is no answer."),
    ),
    # Numbers.
    Own(
        "thousands",
        "12000",
        (
            r"12\,000",
            "12{,}000",
            "12,000",
            "12 000",
            "12'000",
            r"12\;000",
            r"12~000",
            r"12,\!000",
            "12000.",
            r"1.2 \times 10^4",
        ),
        (r"12\,001", "12{,}0", "12", "0", "1200", "120,000", r"12 \cdot 0"),
    ),
    Own(
        "thousands",
        "1,234,567",
        ("1234567", r"1\,234\,567", "1.234.567", "1{,}234{,}567"),
        ("1234568", "1.234567", "1,234", "567"),
    ),
    Own("thousands in the label", r"12\,500", ("12500", "12,500"), ("0", "12.5", "500", "12")),
    Own("thousands in the label", "4,850 students", ("4850", "4,850"), ("4851", "485", "4")),
    Own(
        "scientific",
        "3.89e-10",
        (
            r"3.89\times 10^{-10}",
            r"3.89 \cdot 10^{-10}",
            "3.89 × 10⁻¹⁰",
            "3.89e-10",
            "3.89E-10",
            "3.89 x 10^-10",
            "0.000000000389",
        ),
        ("0.574116", r"3.89\times 10^{10}", r"3.89\times 10^{-11}", r"3.98\times 10^{-10}", "-6.1", "3.89", "0"),
    ),
    Own(
        "scientific",
        r"6.02 \times 10^{23}",
        ("6.02e23", "6.02e+23", r"6.02\cdot10^{23}", r"60.2 \times 10^{22}"),
        ("6.02e22", r"6.02 \times 10^{-23}", "6.02", "6.02e32"),
    ),
    Own(
        "tiny", r"\frac{1}{2^{99}}", (r"2^{-99}", "1/2^{99}"), (r"\frac{1}{2^{98}}", "0", r"\frac{2}{2^{99}}", "2^{99}")
    ),
    Own("tiny", "0.00000031", (r"3.1\times 10^{-7}", "3.1e-7"), ("0.0000031", "0.00000032", "0", r"3.1\times 10^{-8}")),
    Own(
        "repeating",
        r"0.\overline{6}",
        (r"\frac{2}{3}", "2/3", r"0.\bar{6}", r"0.\dot{6}"),
        ("0.6", r"\frac{3}{5}", r"0.\overline{7}", "6"),
    ),
    Own("repeating", r"0.1\overline{36}", (r"\frac{3}{22}",), ("0.136", r"\frac{15}{111}", r"0.\overline{136}")),
    Own("repeating", r"\frac{7}{12}", (r"0.58\overline{3}", r"0.58\dot{3}"), (r"0.5\overline{83}", "0.6")),
    Own(
        "mixed numbers", "2 1/2", (r"2\frac{1}{2}", r"\frac{5}{2}", "2.5", "5/2"), ("1", "3/2", "21/2", r"2\frac{1}{3}")
    ),
    Own(
        "mixed numbers",
        r"3\frac{1}{4}",
        ("3 1/4", "13/4", "3.25", r"\frac{13}{4}"),
        (r"\frac{3}{4}", "31/4", "3", r"4\frac{1}{3}"),
    ),
    Own("decimals", "0.125", (".125", "0.1250", r"\frac{1}{8}", "1/8"), ("0.126", "1.25", "0.0125", "8")),
    Own("negative", "-5", ("–5", "−5", "- 5", r"\text{-5}", "-5.0"), ("5", "-6", "-55", "0")),
    Own(
        "fractions",
        r"-\frac{4}{9}",
        (r"\frac{-4}{9}", "-4/9", r"\dfrac{4}{-9}", "−4/9"),
        (r"\frac{4}{9}", r"-\frac{9}{4}", r"-\frac{4}{3}"),
    ),
    Own("one character", r"\frac{1}{2}", ("½", "0.5"), ("⅓", "2", "1")),
    # Constants.
    Own(
        "imaginary unit", r"1-5\mathrm{i}", ("1-5i", "-5i+1", r"1 - 5 \mathrm{i}"), ("-4", "1+5i", "1-5", "1-6i", "5-i")
    ),
    Own("imaginary unit", r"$4-\mathrm{i}$", ("4-i", "-i+4"), ("4+i", "3", "4", "i-4")),
    Own(
        "imaginary unit",
        r"\frac{3+2i}{13}",
        (r"\frac{3}{13}+\frac{2}{13}i", r"\frac{3+2\mathrm{i}}{13}"),
        (r"\frac{3-2i}{13}", r"\frac{5}{13}"),
    ),
    Own("upright e", r"\mathrm{e}^{2}", ("e^2", r"{\rm e}^2", "e^{2}"), ("e^3", "2", "2e", r"\mathrm{e}^{-2}", "1")),
    Own(
        "upright e", r"y=\frac{1}{\mathrm{e}}x", (r"y=\frac{x}{e}", r"y = e^{-1}x"), ("y=ex", r"y=-\frac{x}{e}", "y=x")
    ),
    # Variables that look like units, at the end.
    Own(
        "last variable",
        r"\frac13\pi r^2h",
        (r"\frac{\pi r^2 h}{3}", r"\frac{1}{3}\pi h r^2"),
        (r"\frac13\pi r^2", r"\frac13\pi r h", r"\frac13 r^2h"),
    ),
    Own("last variable", "2+3d", ("3d+2", "2 + 3d"), ("5", "2+3", "2+3e", "2-3d", "2d+3")),
    Own("last variable", "2bc", ("2cb", r"2 \cdot b \cdot c"), ("2ab", "2b", "2", "bc")),
    Own("last variable", "3t", (r"3\cdot t", "3 t"), ("3", "3s", "2t")),
    Own("last variable", "5m+2s", ("2s+5m",), ("5+2s", "7", "5m", "5m+2")),
    Own("last variable", "4g", ("4 g",), ("4", "4h", "3g")),
    # Words and letters.
    Own(
        "choice",
        "C",
        ("C. 12", "(C) 12", r"\text{C}", r"\textbf{(C)}", "(C)", "C)", "The answer is (C)."),
        ("D. 12", "12", "B", "(A) 12", "BC"),
    ),
    Own("choice with its text", "C. 12", ("C", "12", "(C) 12"), ("D", "13", "(D) 12", r"\boxed{C. 12} or \boxed{97}")),
    Own("order of letters", "ABCD", ("ABCD", r"\text{ABCD}"), ("CABD", "ABDC", "ABC", "ABCDE", "DCBA")),
    Own("several choices", "ACD", ("ACD", "A, C, D", r"\text{ACD}"), ("ABD", "AC", "ABCD")),
    Own("words", "Monday", (r"\text{Monday}", "Monday.", r"\textbf{Monday}"), ("Tuesday", r"\text{Sunday}")),
    Own("words", "no", (r"\text{no}", "No", "no."), ("yes", r"\text{Yes}")),
    # Units and the like.
    Own(
        "degrees",
        "90^\\circ",
        ("90°", "90", r"90^{\circ}", r"90\degree", r"90\text{ degrees}"),
        ("9°", "91^\\circ", r"\frac{\pi}{3}"),
    ),
    Own(
        "percent",
        r"12.5\%",
        ("12.5%", r"12.5 \%", "12.5 percent", r"12.5\text{ percent}"),
        ("12.6%", r"125\%", "1.25%"),
    ),
    Own("percent", r"9\%", ("9%", r"9 \%"), ("8%", "90%", "9.5%")),
    Own("currency", "45", (r"\$45", "$45", "45 dollars", r"\$45.00", "€45", "£45"), (r"\$54", r"\$4.5", "45.01")),
    Own("currency in the label", r"\$32,348", ("32348", r"\$32{,}348", r"32\,348"), ("32", "348", r"\$32,384")),
    Own("units", "20 $cm^{2}$", ("20", r"20\text{ cm}^2", r"20\ \mathrm{cm}^{2}"), ("2", "22", r"200\text{ cm}^2")),
    Own("units", r"15\text{ m/s}", ("15", "15 m/s", r"15\ \mathrm{m/s}"), ("51", r"1.5\text{ m/s}", "-15")),
    Own("units", "6 hours", ("6", "x=6 hours", r"6\text{ h}", r"6\text{ hours}"), ("9", "60")),
    Own(
        "million",
        "2500000",
        (r"2.5\text{ million}", "2.5 million", r"2.5 \times 10^6"),
        ("2.5", r"2.5 \text{ billion}", "25 million"),
    ),
    # Partly in dollars.
    Own("partly in dollars", r"5 $\pi$", (r"5\pi", r"5 \pi", "$5\\pi$"), (r"\pi", "5", r"6\pi", r"5\pi^2")),
    Own("partly in dollars", "$x$ + $1$", ("x+1", "1 + x"), ("x", "1", "x-1")),
    Own("partly in dollars", "$5$;$10$", ("5; 10", "5, 10"), ("5", "10", "5; 11", "10; 6")),
    # Symbols.
    Own("empty set", r"\varnothing", (r"\emptyset", "∅", r"\varnothing"), ("0", r"\{1\}", r"\infty")),
    Own("infinity", r"\infty", ("∞", r"+\infty", r"\infty"), (r"-\infty", "0", "8")),
    Own(
        "infinity",
        r"(-\infty, 3)",
        ("(-∞, 3)", r"(-\infty,3)"),
        (r"(-\infty, 3]", r"(3, \infty)", r"(-\infty, -3)", "3"),
    ),
    Own("unicode", r"2\sqrt{3}", ("2√3", r"\sqrt{12}", r"2\cdot\sqrt3"), ("2√5", "23", r"3\sqrt2", r"\sqrt{3}")),
    Own("unicode", "x^2+1", ("x²+1", "1+x²"), ("x³+1", "x2+1", "x²")),
    Own("unicode", r"\frac{\pi}{6}", ("π/6", r"\frac{1}{6}π"), ("6/π", "π/3", "1/6")),
    Own("logarithm", r"\lg 100", ("2", r"\log_{10} 100"), ("10", "100", "1")),
    Own("logarithm", r"\log_2 5", (r"\frac{\ln 5}{\ln 2}",), (r"\log_5 2", r"\ln 5", r"\log 5")),
    Own("combinations", "C_{10}^{3}", ("120", r"\binom{10}{3}"), ("30", "720", r"\binom{10}{4}")),
    Own("factorial", "5!", ("120", r"5\cdot 4!"), ("5", "24", "6!")),
    # Structures.
    Own("chains", "A>B>C", ("C<B<A", "A > B > C"), ("A<B<C", "B>A>C", "A>C>B")),
    Own("chains", "-2 < x \\le 5", (r"-2<x\leq5", r"5 \ge x > -2"), (r"-2 \le x \le 5", r"-2 < x < 5", r"2 < x \le 5")),
    Own(
        "points",
        "(3, -4)",
        (r"\left(3,-4\right)", "(3,−4)", "(3.0, -4)"),
        ("(-4, 3)", "(3, 4)", "(3)", "(3,-4,0)", "(-3,4)"),
    ),
    Own("intervals", "[0, 2)", (r"\left[0,2\right)", "[0,2)"), ("(0, 2)", "[0, 2]", "(0,2]", "[0,3)")),
    Own(
        "unions",
        r"(-\infty,-4)\cup(0,+\infty)",
        (r"(-\infty,-4)\cup(0,\infty)", "(-∞,-4)∪(0,∞)"),
        (r"(-\infty,-4]\cup(0,+\infty)", r"(-4,0)", r"(0,\infty)"),
    ),
    Own("sets", r"\{1, 2, 4\}", (r"\{4,2,1\}", r"\left\{1,2,4\right\}"), (r"\{1,2\}", r"\{1,2,3,4\}", r"\{1,2,5\}")),
    Own("equations", "x=-3", ("-3", "x = -3", r"x=-\frac{6}{2}"), ("3", "x=3", "x=-2")),
    Own("equations", "y=2x+1", ("y = 1+2x", "2x+1"), ("y=2x-1", "y=x+1", "y=2x")),
    Own("equations", "x^2+y^2=25", ("y^2+x^2=25", "x^2 + y^2 = 5^2"), ("x^2+y^2=5", "x^2-y^2=25", "x+y=25")),
    Own(
        "plus or minus",
        r"\pm\sqrt{7}",
        (r"\pm \sqrt{7}", "±√7", r"\pm\sqrt7"),
        (r"\sqrt{7}", r"\pm\sqrt{5}", r"-\sqrt{7}"),
    ),
    Own(
        "matrices",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
        (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", "1234"),
    ),
    Own("circled", r"\textcircled{1}\textcircled{3}", ("①③", r"\textcircled{1}\textcircled{3}"), ("①②", "①", "①③④")),
    # What stands around a number, and what makes it another answer.
    Own(
        "around a number",
        "5",
        (
            *("n=5", "f(2)=5", "|AB|=5", "(5)", "{5}", "+5", "2+3=5", "5.00", r"5\quad", r"\text{Area}=5", r"x\,=\,5"),
            *(
                r"\mathbf{5}",
                r"\boldsymbol{5}",
                r"\large 5",
                r"\color{red}{5}",
                r"\underline{5}",
                r"\(5\)",
                r"5\text{.}",
            ),
            *(r"\text{5 apples}", r"5 \text{ (apples)}", r"5\text{ square units}", r"5~\text{km/h}", r"5\text{-sided}"),
            *(r"5\ \mathrm{m/s^2}", r"5\,\Omega", r"5\,\mu\text{m}", r"\begin{aligned}x&=5\end{aligned}"),
        ),
        (
            *(
                "5x",
                "x=5,y=6",
                r"5 \text{ or } 6",
                "5, 6",
                "56",
                r"5\pm 1",
                "x>5",
                r"x \neq 5",
                r"\pm 5",
                r"\text{not }5",
            ),
            *(
                "5i",
                "5e",
                r"\vec{5}",
                r"\sqrt{5}",
                "5^2",
                "1/5",
                r"5\pi",
                r"5\frac12",
                r"5\text{ or more}",
                r"5\text{ dozen}",
            ),
            *(r"\geq 5", "[5,5]", "6=5", "5=6", "5,5,5", "(5,0)", r"\log 5", "5 5", r"5 \text{ times } 2"),
        ),
    ),
    Own(
        "no box, more",
        "7",
        (
            *(
                "Final Answer: 7",
                "Answer: **7**",
                "The answer is **7**.",
                "The answer is:\n\n$$7$$",
                "The answer is 7 apples.",
            ),
            *(
                "<answer>\n7\n</answer>",
                "<answer>The answer is 7</answer>",
                "<answer>**7**</answer>",
                "\\boxed{7}. Check: 3+4=7.",
            ),
            *(
                "The final answer is $x = 7$.",
                "<|begin_of_box|>7<|end_of_box|> is the answer",
                r"The answer is \boxed 7",
            ),
        ),
        (
            *(
                "The answer is 7.\n\nWait, the answer is 8.",
                "The answer is 7x.",
                "The answer is 7 + 1.",
                "The answer is 7/2",
            ),
            *("The answer is 7 or 8.", "The answer is between 7 and 8.", "The answer is not 7.", "The answer is 7, 8"),
            *("<answer></answer>7", "<answer>8</answer>7", "The answer is 17", "There is no answer in 7 steps."),
        ),
    ),
    Own(
        "relations",
        "x>3",
        (r"\{x \mid x > 3\}", r"(3,\infty)", r"x \in (3, \infty)", "3<x"),
        (r"x\geq 3", "3", "x<3", r"[3,\infty)"),
    ),
    Own(
        "relations",
        r"(3,\infty)",
        ("x>3", r"\{x|x>3\}", r"x\in(3,+\infty)"),
        (r"x\ge3", "x<3", r"(-\infty,3)", "3", "(3,8)"),
    ),
    Own(
        "lists",
        "1, 2",
        (r"\{1, 2\}", r"x = 1 \text{ or } x = 2", "x=1, x=2", r"1 \text{ and } 2", "2, 1", r"x_1=1, x_2=2"),
        ("1", "2", "1,2,3", "1,3", "12", "x=1", r"1\text{ or }3"),
    ),
    Own("points and sets", "(3,4)", ("(3, 4)", r"\left(3,4\right)"), ("[3,4]", r"\{3,4\}", "7", "34", "(3,4,0)")),
    Own("large", "123456789012345678", ("123,456,789,012,345,678",), ("123456789012345679", "123456789012345670")),
    Own("large", "2^{100}", (r"4^{50}",), ("2^{100}+1", "2^{101}", "2^{99}")),
    Own("irrational", r"\sqrt{2}", ("√2", "2^{1/2}"), ("1.41", "1.4142", "2", r"\pm\sqrt2")),
    Own("names", r"\triangle ABC", (r"\triangle ABC",), (r"\triangle ABD", "ABD")),
    Own("names", r"\overrightarrow{AB}", (r"\overrightarrow{AB}",), (r"\overrightarrow{AC}", "AC")),
    Own("words", r"\text{No solution}", ("No solution", r"\text{no solution}"), (r"\text{One solution}", "0")),
    Own("logarithm", r"\ln 2", (r"\ln(2)", r"\ln{2}", r"\log_e 2"), (r"\ln 3", r"\log_{10} 2", "2")),
    # Formulas.
    Own("polynomials", "(x+2)(x-3)", ("x^2-x-6", "(x-3)(x+2)"), ("(x-2)(x+3)", "x^2+x-6", "(x+2)(x-4)")),
    Own(
        "roots",
        r"\frac{1}{\sqrt{2}}",
        (r"\frac{\sqrt{2}}{2}", r"2^{-1/2}"),
        (r"\sqrt{2}", r"\frac12", r"\frac{\sqrt{3}}{2}"),
    ),
    Own("roots", r"\sqrt[3]{16}", (r"2\sqrt[3]{2}", "16^{1/3}"), (r"\sqrt{16}", "4", r"\sqrt[3]{2}")),
    Own("trigonometry", r"\sin^2 x", (r"1-\cos^2 x", r"\sin^2(x)"), (r"\cos^2 x", r"\sin x", r"\sin^2 y")),
    Own("powers", "2^{10}", ("1024", "2^10"), ("20", "1023", "10^2")),
    Own("absolute", "|x-1|", (r"\left|x-1\right|", r"|1-x|"), ("x-1", "|x+1|", "|x|-1")),
    Own(
        "integrals",
        r"\frac{x^3}{3}+C",
        (r"\frac13x^3+C", r"C+\frac{1}{3}x^{3}"),
        (r"\frac{x^3}{3}", r"\frac{x^2}{3}+C", "x^3+C"),
    ),
    Own("ratios", "3:4", ("3 : 4", "3:4"), ("4:3", "3:5")),
    Own("subscripts", "x_1+2x_2", ("2x_2+x_1", "x_{1}+2x_{2}"), ("x_2+2x_1", "x_1+2x_3", "x_1")),
)
BY_HAND = "by hand"
_RESPONSE = re.compile(r"\\(?:boxed|fbox)|<answer|<think|begin_of_box|nswer")


def own_cases(seed: int = 0) -> list[tuple[str, Case]]:
    """Every case with its kind: those written above, and those made of each label."""
    found = []
    for kind, label, right, wrong in OWN:
        for texts, verdict in ((right, True), (wrong, False)):
            for text in texts:
                response = text if _RESPONSE.search(text) else rf"The answer is \boxed{{{text}}}."
                found.append((kind, Case(label, response, verdict, BY_HAND)))
        found += [(kind, case) for case in make(label, seed)]
    return found
