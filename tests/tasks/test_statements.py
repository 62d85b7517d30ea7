r"""What is said about a number: names and units are none of its business, and doubts leave none."""

import pytest

from proma_bench.tasks.scoring import TAIL, lenient_number

EIGHTEEN = r"""
    \boxed{x=18} | \boxed{\text{Total} = 18} | \boxed{\text{Total: } 18} | \boxed{18 \text{m}} | \boxed{18 USD}
    \boxed{\text{USD } 18} | \boxed{\text{€}18} | \boxed{18 \text{ dollars per day}} | \boxed{18 \text{ km}/\text{h}}
    \boxed{18 \; \text{m/s}^2} | \boxed{6 \times 3 = 18 \text{ apples}} | \boxed{18 = 6 \times 3} | \boxed{f(3) = 18}
    \boxed{\theta = 18^\circ} | \boxed{\approx 18} | \boxed{18.} | \boxed{18,} | \boxed 18 | \boxed{18}\%
    \boxed{18}! | **\boxed{18}** | $x = \boxed{18}$ dollars. | \boxed{18}. The answer is 18.
    \boxed{18} (since 6 * 3 = 18) | The answer is 6*3. | The answer is approximately 18. | The answer is -(-18).
    The answer is "18". | The answer is (18). | Answer = 18 | Answer: $18 per day | Answer: 18cm | Answer: 18km/h
    Answer: 18 °C | Answer: 18 cm² | Answer: 6 x 3 = 18 | The final answer is therefore 18 apples.
    So the total is $5 + $13 = $18. | Total: 9 eggs * $2/egg = $18 | 3 weeks and 3 days = 6 * 3 = 18
    Total cost = price * quantity = 9 * 2 = 18 | 18 \% | <answer>18</answer> | It is 18.</s>
    <s>20</s> 18 | The answer is ~~20~~ 18. | The answer is 18<sup>1</sup>.
    So 5 apples + 13 apples = 18 apples | He ran 18 times. | 1. 18 apples | In 9 hours he walks 9 * 2 = 18 km.
"""

IN_DOUBT = r"""
    \boxed{2ab = 18} | \boxed{18 ab} | \boxed{18ab} | \boxed{ab -18} | \boxed{18\text{x}} | \boxed{18\text{k}}
    \boxed{18 x} | \boxed{18} million | \boxed{18} + 2 | \boxed{2}^3 | \frac{\boxed{36}}{2} | 2\boxed{9}
    \boxed{1}\boxed{8} | \boxed{18} \odot 2 | 2 \times \boxed{9} | \sin \boxed{18} | not \boxed{18}
    at least \boxed{18} | \boxed{18}. The answer is 20. | \boxed{18 dollars x} | \boxed{|{-18}|}
    \boxed{\lfloor 18.5 \rfloor} | \boxed{\max(3, 18)} | \boxed{\log 100} | \boxed{log 100} | \boxed{\binom{5}{2}}
    \boxed{5 \choose 2} | \boxed{0.\overline{3}} | \boxed{18_{10}} | \boxed{12:30} | \boxed{12/25/2020} | \boxed{18k}
    \boxed{18 M} | \boxed{18 \approx 20} | \boxed{x = 3, y = 18} | \boxed{x = 3 \text{ and } y = 18}
    \boxed{\text{side}^2 = 18} | \boxed{2\text{width} = 18} | \boxed{2 \times \text{width} = 18}
    \boxed{\text{width} \times 2 = 18} | \boxed{\text{half of } 18} | \boxed{\text{minus } 18}
    \boxed{2 \text{ dozen}} | \boxed{18 \text{ squared}} | \boxed{50\% \times 20} | \boxed{5'10''}
    \boxed{7 \text{ R } 3} | \boxed{18 \text{ out of } 20} | \boxed{x \neq 18} | \boxed{18 \mod 5}
    \boxed{\text{eighteen}} | The answer is 10-3. | The answer is 18 - 20. | The answer is 18–20.
    The answer is 3 to 4. | The answer is between 3 and 5. | The answer is minus 18. | The answer is 18k.
    The answer is twice 9. | The answer is half of 36. | The answer is 50% of 36. | The answer is 2x = 36.
    The answer is $5!$. | The answer is 18 and a half. | The answer is 18 point 5. | The answer is 18...
    The answer is 0.333... | The answer is 18th. | The answer is day 3. | The answer is option 3.
    The answer is (A) 18. | The answer isn't 18. | The answer cannot be 18. | A wrong answer is 18.
    If the answer is 18, we stop. | Is the answer 18? | Answer: ≥ 18 | Answer: 18 ± 2 | Answer: A18 | Answer: COVID-19
    Answer: 2020-01-02 | Answer: 18-year-old | Answer: max(3, 18) | Answer: 5 apples, 3 pears
    Answer: She has 9 eggs. She eats 2. So 7. | She has 6 boxes. The answer is unknown. | y = 2x + 3 | x = 3 or x = 5
    2 * width = 18 | width * 2 = 18 | twice x = 18 | 6*3 = 18 and 18-2 = 16 | 6*3=18, 18-2=16 | Step 2: Multiply.
    1. Add. 2. | The total is 18. What about day 5? | She has 6 boxes. So she makes eighteen dollars. | more than 18
    x18 | 18x | print(18) | sqrt{16} | frac{1}{2} | \frac{1}{2 | 2^{3 | 18 grand | - 18 | * 18 | 18 \\ 20 | ,867
    The answer is up to 18. | The answer is a maximum of 18. | The answer is as many as 18. | The answer is until 18.
    The answer is greater than or equal to 18. | The answer is off by 18. | The answer is raised to 2.
    The answer is 18 = 20. | The answer is 18 quadrillion. | The answer is 5 sixteenths. | The answer is row 5.
    The answer is 18 Tausend. | The answer is 18. That is wrong. | She has 18 apples. That is incorrect.
    The answer is 18 at most. | The answer is 18 and up. | The answer is ~~18~~. | The answer is x<sub>2</sub>.
    \boxed{ab + cd = 18} | \boxed{2 ab = 18} | 18 apples < the rest | 18 apples ≠ the rest | Her age is 18; his is 20
"""


MULTIPLES = """
    gross score mega giga myriad lacs thou tsd tys tis mln Billionen milliardi milioni milionów milhões
    miliardi miljoen miljoner milyon
    millón mila millier hundert hundra duizend tusen cientos centaines docenas douzaines dozzine dozijn dussin tuzin
    ribu juta triệu tỷ тысяч тыс млн миллиона миллиардов 万 億 만 लाख مليون
"""


@pytest.mark.parametrize(
    "amount",
    ["5.000 €", "€5.000", "€ 5.000", "5.000 euros", "EUR 5.000", "Rp 5.000", "12.500 đồng", "5.000 kr", "5.000 pesos"],
)
def test_a_dot_that_may_group_thousands_leaves_none(amount):
    assert lenient_number(f"The answer is {amount}.") is None
    assert lenient_number(rf"\boxed{{{amount}}}") is None


@pytest.mark.parametrize(
    ("amount", "value"), [("5.00 €", 5), ("€5.5", 5.5), ("5.125 kg", 5.125), ("$5.000", 5), ("5,000 €", 5000)]
)
def test_other_dots_are_decimal(amount, value):
    assert lenient_number(f"The answer is {amount}.") == value


@pytest.mark.parametrize("word", MULTIPLES.split())
def test_a_number_before_a_multiple_of_any_language_is_none(word):
    assert lenient_number(f"The answer is 5 {word}.") is None
    assert lenient_number(f"The answer is 5 {word} dollars.") is None
    assert lenient_number(rf"\boxed{{5 \text{{ {word}}}}}") is None


@pytest.mark.parametrize(
    "text",
    [
        "Her score is 5.",
        "The answer is a gross income of $5",
        "The answer is 5 miles",
        "The answer is 5 trilogies",
        "The answer is 5 millionaires",
        "He makes $5 gross per week.",
        "Her pay is \\$5 gross.",
        "So he made $5 gross profit.",
    ],
)
def test_a_multiple_elsewhere_is_a_word(text):
    assert lenient_number(text) == 5


def listed(texts: str) -> list[str]:
    return [text for line in texts.strip().split("\n") for text in line.strip().split(" | ")]


@pytest.mark.parametrize("text", listed(EIGHTEEN))
def test_names_and_units_leave_the_number(text):
    assert lenient_number(text) == 18


@pytest.mark.parametrize("text", [*listed(IN_DOUBT), "3\n18", "20\n- 2", "Answer:\n\n- 18", "So\n2x\n= 18"])
def test_a_doubt_leaves_none(text):
    assert lenient_number(text) is None


@pytest.mark.parametrize(
    "text", ["6 +\n12", "20 -\n2", "6 *\n3", "36\n/ 2", "\\[\n6 +\n12\n\\]", "Answer:\n\\[\n18\n\\]"]
)
def test_an_expression_goes_on_in_the_next_line(text):
    assert lenient_number(text) == 18


@pytest.mark.parametrize("text", ["5 + 13", "1,234", r"-\boxed{18}", r"5 \times \boxed{18}", "2x = 18"])
def test_what_the_window_cuts_off_is_missed(text):
    for hidden in range(1, len(text)):
        cut = "a " * TAIL + text + " " * (TAIL - len(text) + hidden)
        assert lenient_number(cut) is None
