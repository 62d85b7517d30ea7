"""The projection inside a module's backward pass: modules and hooks around `proma_bench.projection`.

proma.py         Proma, the class that users meet; uncovered.py: a setting of it
taps.py          how it gets into the forward and backward pass of a module's layers; streams.py: on which streams
interception.py  how it sees a backward pass before it starts
graph.py         what that pass will reach
plan.py          what the pass will do, or why it may not start
verification.py  the passes before it that change nothing; rows.py: whose row is whose, from their gradients
engine.py        from the captured uses of a parameter to its gradient
layers/          what each kind of layer contributes; registry.py: which rule serves which module
direct.py        what a parameter contributes that is used without such a layer
checks.py        what is verified of a rule
factors.py       sequence gradients as their factors; layout.py: which row belongs to which sequence
solving.py       from sequence gradients to what is added to the running gradient
measure.py       from factors to Gram matrix and overlaps; cost.py: the cheaper way to get there
factored.py      the intra method in a backward pass
parameters.py    where a running gradient is, with one process or many
records.py       what the projection did
"""
