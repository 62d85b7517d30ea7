r"""What stands around a box: its unit and a full stop leave its number; whatever makes another number of it, none."""

import pytest

from proma_bench.tasks.scoring import lenient_number

EIGHTEEN = r"""
    \boxed{18}. | \boxed{18} dollars. | \boxed{18}\text{ dollars} | \boxed{18}cm | \boxed{18}\% | \boxed{18}^\circ
    $\boxed{18}$ a day | $\boxed{18}$ dollars per day. | **\boxed{18}** apples in all
    \boxed{18} \quad \blacksquare | \boxed{18} \checkmark | \boxed{18} = 6 \times 3 | \boxed{18}\,\text{cm}
    \boxed{18} (since 6 * 3 = 18) | \boxed{18}. Check: 9 * 2 = 18. | \boxed{18}. I hope it is correct.
    In 3 days she has \boxed{18} eggs. | 9 \times 2 = \boxed{18} | x = \boxed{18} | x \approx \boxed{18}
    First \boxed{6}, then \boxed{18}. | \boxed{6}. Hence \boxed{18}. | \boxed{9 \times 2} = \boxed{18}
    \boxed{18}, \boxed{18} | a total of \boxed{18} | \boxed{6} boxes, so \boxed{18} eggs
"""

NONE = r"""
    \boxed{18} or \boxed{20} | \boxed{18} and \boxed{20} | \boxed{18}, \boxed{20} | \boxed{18}; \boxed{20}
    $\boxed{18}$ and $\boxed{20}$. | \boxed{18} \text{ and } \boxed{20} | \boxed{18} & \boxed{20}
    \boxed{18} to \boxed{20} | \boxed{18} : \boxed{20} | x = \boxed{18}, y = \boxed{20}
    \boxed{x=18}, \boxed{y=20} | \boxed{18} vs \boxed{20}
    Ann has \boxed{18} and Bob has \boxed{20}.
    \boxed{18} or 20 | \boxed{18} \text{ or } 20 | \boxed{18} and 20 | \boxed{18}, 5 | \boxed{18} out of 20
    \boxed{18} in 20 | \boxed{18} of 20 | \boxed{18}% of 20 | \boxed{18}\% of 20 | \boxed{18}:20 | \boxed{18} : 20
    \boxed{18} per 20
    \boxed{18}.5 | \boxed{18},5 | \boxed{18},000 | \boxed{18}e3 | \boxed{18} and a half | \boxed{18} = 20
    \boxed{18}k | \boxed{18}M | \boxed{18} k | \boxed{18}x | \boxed{18}\,x | \boxed{18}\text{k} | \boxed{18}\text{x}
    \boxed{18}th | \boxed{18} or more | \boxed{18} or less | \boxed{18} at most | \boxed{18} and up
    \boxed{18} minus 2 | \boxed{18} plus 2 | \boxed{18} times 2 | \boxed{18} divided by 2 | \boxed{18} squared
    \boxed{18} doubled | \boxed{18} more than 20 | \boxed{18} hours and 30 minutes | \boxed{18} feet 6 inches
    \boxed{18} \text{ hours } 30 \text{ minutes} | \boxed{18} dollars and 50 cents
    \boxed{18} is the wrong answer. | \boxed{18} is not the answer. | \boxed{18} isn't right. | \boxed{18} (wrong)
    \boxed{18}, which is wrong. | \boxed{18}. That is wrong. | \boxed{18}. Not quite: 20. | \boxed{18}?
    Is it \boxed{18}? | \boxed{18}. However, it should be 20. | \boxed{18}. I made a mistake. It is 20.
    \boxed{18}. Let me recheck: 20.
    \boxed{18} is wrong, it should be 20
    up to \boxed{18} | 1/2 of \boxed{18} | 50% of \boxed{18} | \frac{1}{2} of \boxed{18} | x\boxed{18}
"""


def listed(texts: str) -> list[str]:
    return [text for line in texts.strip().split("\n") for text in line.strip().split(" | ")]


@pytest.mark.parametrize("text", listed(EIGHTEEN))
def test_a_box_keeps_its_number_beside_its_unit(text):
    assert lenient_number(text) == 18


LINES = ["\\boxed{18}\nor\n\\boxed{20}", "\\[\\boxed{18}\\]\n\\[\\boxed{20}\\]"]


@pytest.mark.parametrize("text", [*listed(NONE), *LINES])
def test_a_box_that_is_not_all_of_the_answer_has_no_number(text):
    assert lenient_number(text) is None
