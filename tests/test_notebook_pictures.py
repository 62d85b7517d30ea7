"""Notebooks on the site: what their pictures are called, and what was printed in columns."""

import json
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def notebooks(monkeypatch):
    """The module, which needs of MkDocs two names alone."""
    for name, given in {"mkdocs.exceptions": ["PluginError"], "mkdocs.structure.files": ["File", "Files"]}.items():
        module = types.ModuleType(name)
        vars(module).update(dict.fromkeys(given, Exception))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, "docs.notebooks", raising=False)
    from docs import notebooks

    yield notebooks
    sys.modules.pop("docs.notebooks", None)


def test_what_a_function_of_the_figures_says_describes_its_picture(notebooks):
    drawn = notebooks._documented(
        'def bars(values):\n    """Two bars [n] for each action.\n\n    More."""\n\ndef _hidden():\n    pass'
    )
    assert drawn == {"bars": "Two bars for each action"}
    picture = {"data": {"image/png": ""}}
    cells = [
        {"cell_type": "markdown", "source": ["## Three actions"]},
        {"cell_type": "code", "source": ["draw.bars(x)\ndraw.other(x)"], "outputs": [picture]},
    ]
    assert [*notebooks.descriptions({"cells": cells}, drawn)] == ["Figure of “Three actions”. Two bars for each action"]


def test_every_lesson_that_draws_by_functions_has_words_for_its_pictures(notebooks):
    for path in sorted((ROOT / "tutorials" / "figures").glob("lesson*.py")):
        drawn = notebooks._documented(path.read_text())
        (notebook,) = (ROOT / "tutorials").glob(f"{path.stem[-1]}_*.ipynb")
        texts = [*notebooks.descriptions(json.loads(notebook.read_text()), drawn)]
        assert texts and "[" not in "".join(texts)
        assert sum(any(words in text for words in drawn.values()) for text in texts) >= len(texts) / 2


def test_what_was_printed_in_columns_is_marked_and_sentences_are_not(notebooks):
    printed = '<div class="jp-RenderedText x">\n<pre>{}</pre>\n</div>'
    table, sentence = (
        printed.format("<span>holds </span>  finite\nfails   linear"),
        printed.format("  A sentence. Another."),
    )
    code = "<pre>a  b</pre>"
    assert (
        notebooks.with_columns(table + sentence + code)
        == table.replace("<pre>", '<pre class="columns">') + sentence + code
    )
