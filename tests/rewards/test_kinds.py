"""Answers as they occur, of every kind and both ways: by label, by answer, and whole responses."""

from __future__ import annotations

import pytest

from lens_openrlhf.rewards.grading import box, grade, response_end

# label, right answers, wrong answers: by kind.
BOXED = {
    "in dollars": [
        (r"5 $\pi$", [r"5\pi"], [r"\pi", "5"]),
        ("$5$;$10$", ["5,10", "10, 5"], ["5", "10"]),
        (r"20 $cm^{2}$", ["20", r"20 \text{ cm}^2"], ["21", r"20\text{ m}^2"]),
        ("$5$ apples", ["5", "5 apples"], ["6"]),
    ],
    "scientific": [
        ("3.89e-10", [r"3.89\times 10^{-10}", "3.89*10^-10", "3.89E-10"], ["0.574116", "0", "3.88e-10", "3.89e-9"]),
        ("1500", ["1.5e3", r"1.5 \cdot 10^3"], ["1.5e2", "1.5e"]),
        ("2e^3", ["2e^{3}"], ["2000"]),
    ],
    "upright": [
        (r"$1-5\mathrm{i}$", ["1-5i", "-5i+1"], ["-4", "1+5i"]),
        (r"\mathrm{e}^{2}", ["e^2"], ["e^3"]),
        ("2i", ["2 i", "(1+i)^2"], ["2", "-2i"]),
    ],
    "units": [
        (r"\frac13\pi r^2h", [r"\frac{1}{3}\pi r^2h"], [r"\frac13\pi r^2"]),
        ("2+3d", ["3d+2"], ["5", "2+3"]),
        ("2bc", ["2cb"], ["2ab", "2", "2b"]),
        (r"10\text{ cm}", ["10", "10 cm", r"10\,\mathrm{cm}", "10 centimeters"], [r"10\text{ km}", r"10\text{ cm}^2"]),
        ("5", ["5 m", r"5\text{ apples}", "5 hours"], ["5x", "5d", "5m"]),
        (r"3\mathbf{i}+4\mathbf{j}", [r"4\mathbf{j}+3\mathbf{i}"], [r"3\mathbf{i}+4", r"3\mathbf{i}+4\mathbf{k}"]),
    ],
    "thousands": [
        (r"12\,000", ["12000", "12,000", "12{,}000", r"12,\!000", "12 000", r"12\ 000", "12'000"], ["0", "12"]),
        ("1234567", ["1 234 567", r"\$1,234,567"], ["1234"]),
        ("(1,234)", ["(1, 234)"], ["1234"]),
        ("1,2", ["2,1"], ["12"]),
    ],
    "repeating": [
        (r"0.\overline{6}", [r"\frac23", "0.(6)", r"0.\dot{6}"], ["0.6", r"\frac35"]),
        (r"0.1\overline{36}", [r"\frac{3}{22}"], [r"\frac{136}{999}"]),
        (r"\overline{AB}", [r"\overline{AB}"], [r"\overline{AC}"]),
    ],
    "mixed": [
        ("2 1/2", [r"\frac52", "2.5", r"2\frac12"], ["1", r"\frac{21}{2}"]),
        (r"1\frac12x", [r"\frac32x"], [r"\frac12x"]),
        (r"-2\frac{1}{2}", ["-2.5"], ["-1.5"]),
        (r"2^2\frac{1}{2}", ["2"], ["4.5"]),
    ],
    "signs": [
        (r"\varnothing", [r"\emptyset", "∅", r"\{\}"], ["0"]),
        ("∞", [r"\infty", "infinity"], [r"-\infty"]),
        ("90°", ["90", r"90^\circ", "90^{\\circ}", r"90\text{ degrees}"], ["91"]),
        ("–5", ["-5", "−5"], ["5"]),
        (r"x^2", ["x²"], ["x^3"]),
        (r"\sqrt{2}", ["√2", "√(2)"], ["√3"]),
        ("€5", ["5", r"\$5"], ["6"]),
        (r"12.5\%", ["12.5%", "12.5", "0.125"], ["1.25"]),
        (r"0.5\%", [r"0.5\%", "0.005"], ["0.5"]),
        (r"\lg 100", ["2"], ["1"]),
        ("C_{10}^{3}", ["120", r"\binom{10}{3}"], ["30"]),
        ("x_1^2", ["x_1^2"], ["x_2^2"]),
        ("A>B>C", ["C<B<A"], ["A<B<C", "C>B>A"]),
    ],
    "stops": [("5", ["5.", "5,", "$5$."], ["5.5"]), ("5!", ["120"], ["5"]), ("0.5", [".5"], ["5"])],
    "letters": [
        ("C", ["C. 12", "(C) 12", r"\textbf{(C)}\ 12", r"\text{C}", "C: 12"], ["D. 12", "A, C", "A and C", "CD"]),
        ("ABCD", [r"\text{ABCD}", "A, B, C, D"], ["CABD", "ABC"]),
        ("CABD", ["CABD"], ["ABCD", "C,A,B,D,A"]),
        ("A, C", ["AC", "C, A"], ["A", "AD"]),
        ("I and III", ["I, III"], ["I, II", "III"]),
        (r"\text{north}", ["north", "North"], ["thorn", "south"]),
        ("xyz", ["zyx"], ["xy"]),
    ],
    "sizes": [
        (r"\frac{1}{2^{99}}", [r"2^{-99}", r"\frac{2}{2^{100}}"], [r"\frac{1}{2^{98}}", "0"]),
        ("3.14159265", ["3.14159265", "3.141593"], ["3.14159264", "3.14"]),
        (r"\frac13", ["0.333333"], ["0.33"]),
    ],
    "cases": [(r"\pi(R^2-r^2)", [r"\pi R^2-\pi r^2"], ["0", r"\pi(r^2-R^2)"])],
}


# answer in a box, label, whether it is right
PAIRS = [
    ("5\\pi", "5 $\\pi$", True),
    ("\\pi", "5 $\\pi$", False),
    ("5,10", "$5$;$10$", True),
    ("10", "$5$;$10$", False),
    ("20", "20 $cm^{2}$", True),
    ("20\\text{ cm}^2", "20 $cm^{2}$", True),
    ("2", "20 $cm^{2}$", False),
    ("3.89\\times 10^{-10}", "3.89e-10", True),
    ("0.574116", "3.89e-10", False),
    ("3.89e-10", "3.89\\times 10^{-10}", True),
    ("3.9e-10", "3.89e-10", False),
    ("0", "3.89e-10", False),
    ("3.89e-10", "0", False),
    ("1e5", "100000", True),
    ("6.02E23", "6.02\\times10^{23}", True),
    ("2e3", "2000", True),
    ("1-5i", "$1-5\\mathrm{i}$", True),
    ("-4", "$1-5\\mathrm{i}$", False),
    ("e^2", "\\mathrm{e}^{2}", True),
    ("1-5 i", "1-5i", True),
    ("1+5i", "1-5i", False),
    ("\\mathrm{i}", "i", True),
    ("2\\sqrt{3}i", "2i\\sqrt{3}", True),
    ("\\frac13\\pi r^2", "\\frac13\\pi r^2h", False),
    ("5", "2+3d", False),
    ("2ab", "2bc", False),
    ("\\frac13\\pi r^2h", "\\frac{1}{3}\\pi r^2h", True),
    ("2c", "2", False),
    ("2t", "2t", True),
    ("5m", "5", False),
    ("5 m", "5", True),
    ("10cm", "10", True),
    ("10 cm", "10", True),
    ("10", "10 km/h", True),
    ("5 apples", "5", True),
    ("12 square inches", "12", True),
    ("12000", "12\\,000", True),
    ("0", "12\\,000", False),
    ("12 000", "12000", True),
    ("12{,}000", "12000", True),
    ("12,000", "12000", True),
    ("12'000", "12000", True),
    ("1\\,234\\,567", "1234567", True),
    ("3{,}14", "3.14", True),
    ("1 234", "1235", False),
    ("5.", "5", True),
    ("5", "5.", True),
    ("C. 12", "C", True),
    ("(C) 12", "C", True),
    ("\\textbf{(C)}\\ 12", "C", True),
    ("\\textbf{(C)}\\ 12", "12", True),
    ("C", "D", False),
    ("D. 12", "C", False),
    ("C", "C. 12", True),
    ("CABD", "ABCD", False),
    ("ABCD", "ABCD", True),
    ("\\text{C}", "C", True),
    ("(C)", "C", True),
    ("C: the cat", "C", True),
    ("\\frac{1}{2^{98}}", "\\frac{1}{2^{99}}", False),
    ("\\frac{1}{2^{99}}", "\\frac{1}{2^{99}}", True),
    ("2^{-99}", "\\frac{1}{2^{99}}", True),
    ("\\varnothing", "\\emptyset", True),
    ("0.\\overline{6}", "\\frac23", True),
    ("0.1\\overline{6}", "\\frac16", True),
    ("0.\\overline{6}", "0.6", False),
    ("∞", "\\infty", True),
    ("90°", "90", True),
    ("–5", "-5", True),
    ("−5", "-5", True),
    ("5", "−5", False),
    ("\\lg 100", "2", True),
    ("C_{10}^{3}", "120", True),
    ("C<B<A", "A>B>C", True),
    ("A<B<C", "A>B>C", False),
    ("2 1/2", "\\frac52", True),
    ("2 1/2", "1", False),
    ("2\\ 1/2", "2.5", True),
    ("2\\frac{1}{2}", "2.5", True),
    ("½", "0.5", True),
    ("x²", "x^2", True),
    ("√2", "\\sqrt2", True),
    ("3×4", "12", True),
    ("10^{10}", "10^10", True),
    ("10^-3", "0.001", True),
    ("\\mathbf{5}", "5", True),
    ("€5", "5", True),
    ("5 dollars", "5", True),
    ("5\\text{ dollars}", "5", True),
    ("50 %", "50\\%", True),
    ("x \\in [1,2]", "[1,2]", True),
    ("3,5,7", "3,5,7", True),
    ("7,5,3", "3,5,7", True),
    ("1,2", "\\{1,2\\}", True),
    ("\\pm 2", "2,-2", True),
    ("x=2 or x=3", "2,3", True),
    ("0.333", "\\frac13", False),
    ("A", "A", True),
    ("\\left(\\frac{1}{2}, 3\\right)", "(0.5,3)", True),
    ("y=2x+3", "2x+3", True),
    ("60\\%", "0.6", True),
    ("$5$", "5", True),
    ("\\$5", "5", True),
    ("**5**", "5", True),
    ("= 5", "5", True),
    ("5\\\\", "5", True),
    ("\\sin x", "\\sin x", True),
    ("2\\sin x", "2", False),
]
# response, label, whether it is right
RESPONSES = [
    ("\\boxed{3}, \\boxed{5} and \\boxed{7}", "3,5,7", True),
    ("\\boxed{3}, \\boxed{5} and \\boxed{7}", "7", False),
    ("<think>perhaps \\boxed{5}?</think>The answer is 7.", "7", True),
    ("<think>perhaps \\boxed{5}?</think>The answer is 7.", "5", False),
    ("<think>so 5.</think><answer>7</answer>", "7", True),
    ("<think>so 5.</think><answer>7</answer>", "5", False),
    ("\\fbox{5}", "5", True),
    ("\\fbox{5}", "6", False),
    ("\\boxed{5} so \\boxed{\\frac{7}{", "5", False),
    ("<answer> \\boxed{7} </answer>", "7", True),
    ("<answer>The answer is $7$</answer>", "7", True),
    ("$\\boxed{3}$ or $\\boxed{5}$", "3,5", True),
    ("\\boxed{5} ... \\boxed{5}", "5", True),
    ("\\boxed{2}\\text{ and }\\boxed{3}", "2,3", True),
    ("The answer is 7.", "7", True),
    ("**Answer:** 12,000", "12000", True),
    ("The answer is C.", "C", True),
    ("Answer: (C)", "C", True),
    ("The answer is 3.89e-10", "3.89e-10", True),
    ("So it is 2 1/2.", "2.5", True),
    ("answer: 90°", "90", True),
    ("The answer is $5\\pi$.", "5\\pi", True),
    ("foo </think> \\boxed{4}", "4", True),
    ("<think> \\boxed{4}", "4", False),
]


@pytest.mark.parametrize("kind", BOXED)
def test_answers_of_a_kind(kind):
    for label, right, wrong in BOXED[kind]:
        for answer in right:
            assert grade(f"so ${box(answer)}$.", label)[0] == "correct", (label, answer)
        for answer in wrong:
            assert grade(f"so ${box(answer)}$.", label)[0] in ("wrong", "no_answer"), (label, answer)


@pytest.mark.parametrize(("answer", "label", "right"), PAIRS)
def test_an_answer_in_a_box(answer, label, right):
    assert (grade(response_end(box(answer)), label)[0] == "correct") is right


@pytest.mark.parametrize(("response", "label", "right"), RESPONSES)
def test_a_response(response, label, right):
    assert (grade(response_end(response), label)[0] == "correct") is right
