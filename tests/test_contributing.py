"""What CONTRIBUTING.md says is there, is there."""

import importlib.util
import pkgutil
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_life_of_a_batch_names_functions_that_exist():
    walk = GUIDE.split("### The life of a batch")[1].split("###")[0]
    steps = re.findall(r"^\d+\. (.*)$", walk, flags=re.MULTILINE)
    assert len(steps) == 11
    for step in steps:
        names = re.findall(r"`(proma_bench\.[\w.]+)`", step)
        assert names, step
        for name in names:
            assert callable(resolved(name)), name


def resolved(name):
    module, *attributes = name.split(".")
    while importlib.util.find_spec(f"{module}.{attributes[0]}"):
        module = f"{module}.{attributes.pop(0)}"
        if not hasattr(__import__(module, fromlist=["_"]), "__path__"):
            break
    return pkgutil.resolve_name(f"{module}:{'.'.join(attributes)}")


def test_each_extension_has_an_example_that_the_tests_run():
    table = GUIDE.split("### What to add, and where")[1].split("##")[0]
    examples = re.findall(r"\]\((examples/plugins/\w+\.py)\)", table)
    assert len(examples) == 6
    tests = (ROOT / "tests" / "test_extensions.py").read_text()
    for example in examples:
        assert (ROOT / example).exists()
        assert f'"{Path(example).stem}"' in tests, example


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", GUIDE):
        assert (ROOT / target.partition("#")[0]).exists(), target
