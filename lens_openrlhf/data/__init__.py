"""The paper's training and test sets, built from MATH, DAPO and NuminaMath 1.5."""
