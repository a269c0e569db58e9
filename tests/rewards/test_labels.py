"""Labels that no answer can be graded by are found before anything is graded by them."""

from __future__ import annotations

import pytest

from lens_openrlhf.rewards import check_labels, shutdown, validate_label


@pytest.fixture(autouse=True, scope="module")
def pool():
    yield
    shutdown()


def test_bad_labels_come_with_their_reason_in_the_order_of_the_data():
    seen = []
    labels = ["5", "{{{", 7, "", "5", r"\frac{1}{0}", "{{{", r"\frac{1}{2}"]
    bad = check_labels(labels, progress=lambda *counts: seen.append(counts))
    assert list(bad) == ["{{{", "", r"\frac{1}{0}"]
    assert bad == {label: validate_label(label) for label in bad} and all("\n" not in why for why in bad.values())
    assert seen == [(done, 6) for done in range(1, 7)]


def test_no_labels():
    assert check_labels([]) == {}
