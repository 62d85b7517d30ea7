"""Figures: what is drawn lies inside of the picture, whatever there is to name."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from proma_bench.report.plots import _finish


@pytest.mark.parametrize("name", ["PROMA", "a method's long name", "a name of very many words " * 6])
@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_the_legend_and_the_labels_are_inside_of_the_figure(count: int, name: str) -> None:
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes in panels:
        axes.set(xlabel="mean local KL of a step (nats)", ylabel="validation score (sampled), at the end")
        for number in range(count):
            axes.plot([1, 2], [number, number], label=f"{name}, {number}")
    _finish(figure, "what is learned from the same change of the policy")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (legend,) = figure.legends
    parts = [legend, *(axes.yaxis.label for axes in panels), *(axes.xaxis.label for axes in panels)]
    for part in parts:
        box = part.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, part
