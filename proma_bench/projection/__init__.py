"""PROMA as mathematics: pure functions of tensors (arXiv 2601.10498, "Projected Microbatch Accumulation").

Notation, for one parameter tensor ``W`` and a microbatch of ``B`` sequences:

    S_i   sequence log-prob gradient, the gradient of log p(sequence i) with respect to W      [B, *W]
    a_i   advantage of sequence i; the microbatch policy gradient is g = sum_i a_i S_i         [B]
    A     running gradient, what earlier microbatches of this optimizer step accumulated       [*W]
    K, c  Gram matrix K_ij = <S_i, S_j> and overlaps c_i = <A, S_i>                            [B, B], [B]

One step of projected accumulation, with shrinkage sigma and the norm clamp rho:

    A  <-  A - rho sigma P_S A + g        rho = min(1, beta ||g|| / ||P_S A||)

``P_S A = sum_i w_i S_i`` lies in the span of the sequence gradients. Everything about it therefore follows from ``K``
and ``c`` alone: ``||P_S A||^2 = w'Kw`` and ``||g||^2 = a'Ka``. The step is an ordinary policy gradient with *corrected
advantages* ``a - rho sigma w``.

    config.py      ProjectionConfig, and how other configurations are built from it; no torch
    methods.py     the table of projection methods; no torch
    literal.py     project, accumulate: the step on whole tensors, readable as the paper
    gram.py        corrected_advantages: the same step in B dimensions, which the backward pass uses
    solve.py       from K and c to the weights w: exact, iterative, ridge
    successive.py  several microbatches in one pass
    factored.py    the intra method, another method altogether

Numerics: all arithmetic is float64, except in ``intra``, which keeps the type of its inputs. Gradients are normalised
first, so that their scales do not matter. A direction counts as dependent on the others when the matching eigenvalue of
the *normalised* Gram matrix is small against ``rank_tolerance`` = 16 B eps, with the eps of the type in which the Gram
matrix was computed (see also `solve.gradient_rank_tolerance`). Orthogonality to the unit sequence gradients then holds
to about ``sqrt(rank_tolerance) * ||A||`` in the worst case, and to rounding when nothing is nearly dependent. No
function here waits for a GPU, except those of ``qr``, which is there as an oracle, and of ``intra``.
"""
