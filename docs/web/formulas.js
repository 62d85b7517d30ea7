// The projection in B dimensions, formula by formula that of proma_bench/projection/solve.py and gram.py, with the same
// names. tests/site compares the two in a browser.
"use strict";

globalThis.projection = (() => {
  const RIDGE_SHIFT = 0.01;
  const EPS = 2 ** -52, TINY = 2 ** -1022; // of float64

  const dot = (u, v) => u.reduce((sum, x, i) => sum + x * v[i], 0);
  const plus = (u, v) => u.map((x, i) => x + v[i]);
  const minus = (u, v) => u.map((x, i) => x - v[i]);
  const times = (matrix, v) => matrix.map((row) => dot(row, v));
  const norm = (v) => Math.sqrt(dot(v, v));
  const combine = (coefficients, rows) =>
    rows[0].map((_, j) => coefficients.reduce((sum, x, i) => sum + x * rows[i][j], 0));

  // The Gram matrix of the unit gradients, and the norms; a zero gradient has norm infinity.
  function normalise(gram) {
    const norms = gram.map((row, i) => (row[i] > TINY / EPS ? Math.sqrt(row[i]) : Infinity));
    const cosine = (value, i, j) => Math.min(1, Math.max(-1, value / norms[i] / norms[j]));
    return [gram.map((row, i) => row.map((value, j) => (i === j ? 1 : cosine(value, i, j)))), norms];
  }

  // Subtract the component along one unit gradient after another: Gauss-Seidel on K w = c, from zero weights.
  function gaussSeidel(units, overlap, sweeps) {
    const weights = overlap.map(() => 0);
    for (let sweep = 0; sweep < sweeps; sweep++)
      for (let i = 0; i < overlap.length; i++) weights[i] += overlap[i] - dot(units[i], weights);
    return weights;
  }

  // (K + shift I)^-1 c and, with more solves, steps from there towards K^+ c.
  function iteratedTikhonov(units, overlap, solves, shift) {
    const triangle = cholesky(units.map((row, i) => row.map((value, j) => value + (i === j ? shift : 0))));
    let weights = choleskySolve(triangle, overlap);
    for (let solve = 1; solve < solves; solve++)
      weights = plus(weights, choleskySolve(triangle, minus(overlap, times(units, weights))));
    return weights;
  }

  function cholesky(matrix) {
    const triangle = matrix.map((row) => row.map(() => 0));
    matrix.forEach((row, i) => {
      for (let j = 0; j <= i; j++) {
        const rest = row[j] - dot(triangle[i], triangle[j]);
        triangle[i][j] = i === j ? Math.sqrt(rest) : rest / triangle[j][j];
      }
    });
    return triangle;
  }

  function choleskySolve(triangle, values) {
    const solved = values.slice(), last = values.length - 1;
    for (let i = 0; i <= last; i++) {
      for (let j = 0; j < i; j++) solved[i] -= triangle[i][j] * solved[j];
      solved[i] /= triangle[i][i];
    }
    for (let i = last; i >= 0; i--) {
      for (let j = i + 1; j <= last; j++) solved[i] -= triangle[j][i] * solved[j];
      solved[i] /= triangle[i][i];
    }
    return solved;
  }

  const SOLVERS = {
    exact: (units, overlap) => iteratedTikhonov(units, overlap, 3, 16 * overlap.length * EPS),
    iterative: (units, overlap, sweeps) => gaussSeidel(units, overlap, sweeps),
    ridge: (units, overlap) => iteratedTikhonov(units, overlap, 1, RIDGE_SHIFT),
  };

  function projectionWeights(gram, overlap, method, sweeps) {
    const [units, norms] = normalise(gram);
    const weights = SOLVERS[method](units, overlap.map((value, i) => value / norms[i]), sweeps);
    return weights.map((weight, i) => weight / norms[i]);
  }

  const gramNorm = (gram, x) => Math.sqrt(Math.max(0, dot(times(gram, x), x)));

  // One step of PROMA. running: A; gradients: the S_i; maxRemoved: the clamp, null for none.
  function step({ running, gradients, advantages, method, sweeps, maxRemoved }) {
    const gram = gradients.map((one) => times(gradients, one));
    const weights = projectionWeights(gram, times(gradients, running), method, sweeps);
    const component = gramNorm(gram, weights);
    const allowed = maxRemoved === null ? Infinity : maxRemoved * gramNorm(gram, advantages);
    const share = Math.min(1, allowed / Math.max(component, TINY)); // rho
    const removed = combine(weights.map((weight) => share * weight), gradients);
    const remains = minus(running, removed);
    return {
      removed, remains, share,
      clamped: component > allowed,
      removedNorm: norm(removed),
      remainsNorm: norm(remains),
      overlaps: times(gradients, remains),
      coefficients: advantages.map((advantage, i) => advantage - share * weights[i]), // the corrected advantages
    };
  }

  return { step };
})();
