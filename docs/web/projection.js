// The arrows that readers drag. The floor holds the sequence gradients; the running gradient A stands above it.
"use strict";

document.querySelectorAll(".projection").forEach((root) => {
  const SCALE = 85, ORIGIN = [215, 300], DEPTH = [0.5, 0.32]; // of a point (x, y, z): y goes into the picture
  const START = { A: [1.3, 0.8, 1.5], S1: [1.5, -0.2, 0], S2: [0.4, 1.5, 0] };
  const LIMITS = [[-1.8, 2.6], [-0.9, 2.4], [0, 2.2]];
  const NEAR = 0.0005; // what the figure shows as zero
  const field = (name) => root.querySelector(`[name="${name}"]`);
  const svg = root.querySelector("svg");
  let vectors = structuredClone(START);

  // ------------------------------------------------------------------------------------------------- geometry

  const seen = ([x, y, z]) => [ORIGIN[0] + SCALE * (x + DEPTH[0] * y), ORIGIN[1] - SCALE * (z + DEPTH[1] * y)];
  const floor = ([x, y]) => [x, y, 0];
  const snapped = (vector) =>
    vector.map((value, axis) => Math.round(100 * Math.min(LIMITS[axis][1], Math.max(LIMITS[axis][0], value))) / 100);

  // What a handle moves, where it is, and what a movement on the screen (in units) means for the vector.
  const onFloor = ([x, y, z], dx, dy) => [x + dx - (DEPTH[0] * dy) / DEPTH[1], y + dy / DEPTH[1], z];
  const HANDLES = {
    A: { of: "A", at: (v) => v, drag: ([x, y, z], dx, dy) => [x + dx, y, z + dy], key: ([x, y, z], dx, dy) => [x + dx, y, z + dy], name: "Tip of A" },
    foot: { of: "A", at: floor, drag: onFloor, key: ([x, y, z], dx, dy) => [x + dx, y + dy, z], name: "A over the floor" },
    S1: { of: "S1", at: (v) => v, drag: onFloor, key: ([x, y, z], dx, dy) => [x + dx, y + dy, z], name: "S1 on the floor" },
    S2: { of: "S2", at: (v) => v, drag: onFloor, key: ([x, y, z], dx, dy) => [x + dx, y + dy, z], name: "S2 on the floor" },
  };

  // -------------------------------------------------------------------------------------------------- drawing

  function element(name, attributes, parent = svg) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    return parent.appendChild(made);
  }

  const corners = [[-1.8, -0.9], [2.6, -0.9], [2.6, 2.4], [-1.8, 2.4]].map((corner) => seen([...corner, 0]).join());
  element("polygon", { class: "floor", points: corners.join(" ") });
  const drop = element("path", { class: "drop" });
  const arrows = Object.fromEntries(
    ["S1", "S2", "removed", "A", "remains"].map((name) => [name, {
      line: element("path", { class: `arrow ${name}` }),
      head: element("path", { class: `head ${name}` }),
      label: element("text", { class: `name ${name}` }),
    }]),
  );
  const LABELS = { S1: "S₁", S2: "S₂", A: "A", removed: "removed", remains: "A′" };

  function drawArrow(name, from, to) {
    const [x0, y0] = seen(from), [x1, y1] = seen(to), { line, head, label } = arrows[name];
    const length = Math.hypot(x1 - x0, y1 - y0), shown = length > 2;
    [line, head, label].forEach((part) => part.toggleAttribute("hidden", !shown));
    if (!shown) return;
    const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length], size = Math.min(13, length);
    const [bx, by] = [x1 - size * ux, y1 - size * uy], half = 0.42 * size;
    line.setAttribute("d", `M${x0} ${y0}L${bx} ${by}`);
    head.setAttribute("d", `M${x1} ${y1}L${bx - half * uy} ${by + half * ux}L${bx + half * uy} ${by - half * ux}Z`);
    const middle = name === "removed"; // its name stands beside it, those of the others beyond their tips
    label.setAttribute("x", middle ? (x0 + x1) / 2 - 16 * uy : x1 + 24 * ux);
    label.setAttribute("y", middle ? (y0 + y1) / 2 + 16 * ux + 5 : y1 + 24 * uy + 5);
    label.textContent = LABELS[name];
  }

  // ------------------------------------------------------------------------------------------- state and numbers

  const settings = () => ({
    method: field("method").value,
    sweeps: Math.max(1, Math.min(50, Math.round(Number(field("sweeps").value)) || 1)),
    maxRemoved: field("clamp").checked ? Number(field("beta").value) : null,
    advantages: [Number(field("a1").value), Number(field("a2").value)],
  });
  const number = (value, digits = 3) => (Math.abs(value) < NEAR ? 0 : value).toFixed(digits);

  function says(found) {
    if (found.clamped) return `The clamp lets ${number(100 * found.share, 0)} % of the component be removed: the microbatch still sees the rest.`;
    if (found.removedNorm < NEAR) return "Nothing is removed: A has no component along S₁ or S₂.";
    if (found.overlaps.every((overlap) => Math.abs(overlap) < NEAR)) return "What remains is perpendicular to S₁ and S₂: to second order, it does not move the policy on these two samples.";
    return "Nearly all is removed: a little of A′ still lies along S₁ or S₂. The exact method leaves nothing there.";
  }

  function update() {
    const { A, S1, S2 } = vectors, chosen = settings();
    const found = projection.step({ running: A, gradients: [S1, S2], ...chosen });
    drawArrow("S1", [0, 0, 0], S1);
    drawArrow("S2", [0, 0, 0], S2);
    drawArrow("A", [0, 0, 0], A);
    drawArrow("removed", A, found.remains);
    drawArrow("remains", [0, 0, 0], found.remains);
    drop.setAttribute("d", `M${seen(A)}L${seen(floor(A))}`);
    const shown = {
      running: number(Math.hypot(...A)),
      removed: number(found.removedNorm),
      remains: number(found.remainsNorm),
      overlaps: found.overlaps.map((overlap) => number(overlap)).join(", "),
      clamp: chosen.maxRemoved === null ? "none" : found.clamped ? `active, ρ = ${number(found.share)}` : "not active",
      coefficients: found.coefficients.map((coefficient) => number(coefficient)).join(", "),
    };
    Object.entries(shown).forEach(([name, text]) => (root.querySelector(`[data-number="${name}"]`).textContent = text));
    root.querySelector(".projection-says").textContent = says(found);
    for (const [name, digits] of [["beta", 2], ["a1", 1], ["a2", 1]])
      field(`${name}-shown`).textContent = Number(field(name).value).toFixed(digits);
    field("sweeps").disabled = chosen.method !== "iterative";
    field("beta").disabled = chosen.maxRemoved === null;
    placeHandles();
  }

  // -------------------------------------------------------------------------------------------------- handles

  const circles = Object.fromEntries(
    Object.keys(HANDLES).map((name) => [name, element("circle", { class: `handle ${name}`, r: 13, tabindex: 0, role: "button" })]),
  );

  function placeHandles() {
    for (const [name, { of, at, name: words }] of Object.entries(HANDLES)) {
      const [x, y] = seen(at(vectors[of]));
      circles[name].setAttribute("cx", x);
      circles[name].setAttribute("cy", y);
      circles[name].setAttribute("aria-label", `${words}, at ${vectors[of].join(", ")}; move it with the arrow keys`);
    }
  }

  const move = (of, vector) => { vectors[of] = snapped(vector); update(); };
  const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  for (const [name, { of, drag, key }] of Object.entries(HANDLES)) {
    const circle = circles[name];
    let from = null;
    circle.addEventListener("pointerdown", (event) => {
      circle.setPointerCapture(event.pointerId);
      from = { vector: vectors[of], x: event.clientX, y: event.clientY };
    });
    circle.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const unit = (SCALE * svg.getBoundingClientRect().width) / svg.viewBox.baseVal.width; // in pixels of the screen
      move(of, drag(from.vector, (event.clientX - from.x) / unit, (from.y - event.clientY) / unit));
    });
    for (const end of ["pointerup", "pointercancel"]) circle.addEventListener(end, () => (from = null));
    circle.addEventListener("keydown", (event) => {
      const direction = KEYS[event.key], far = event.shiftKey ? 0.5 : 0.1;
      if (!direction) return;
      event.preventDefault();
      move(of, key(vectors[of], far * direction[0], far * direction[1]));
    });
  }

  root.querySelectorAll("select, input").forEach((control) => control.addEventListener("input", update));
  const set = (values) => Object.entries(values).forEach(([name, value]) => (field(name).value = value));
  field("paper").addEventListener("click", () => {
    set({ method: "iterative", sweeps: 2, beta: 0.5 });
    field("clamp").checked = true;
    update();
  });
  field("reset").addEventListener("click", () => {
    vectors = structuredClone(START);
    set({ method: "exact", sweeps: 2, beta: 0.5, a1: 1, a2: -0.5 });
    field("clamp").checked = false;
    update();
  });
  update();
});
