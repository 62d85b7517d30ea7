"""The projection inside a module's backward pass: modules and hooks around `proma_bench.projection`.

proma.py       Proma, the class that users meet
taps.py        how it gets into the backward pass of a module
engine.py      from the captured uses of a parameter to its gradient
layers/        what each kind of layer contributes; registry.py: which rule serves which module
factors.py     sequence gradients as their factors; layout.py: which row belongs to which sequence
measure.py     from factors to Gram matrix and overlaps; cost.py: the cheaper way to get there
factored.py    the intra method in a backward pass
parameters.py  where a running gradient is, with one process or many
checks.py      what is verified while it runs; records.py: what the projection did
"""
