// Boxes that scroll sideways can be reached by keyboard, and the search has a name for those who hear it.
"use strict";

const BOXES = [
  ".md-typeset__scrollwrap", ".formula", ".highlight-ipynb", ".highlight-ipynb pre", ".jp-RenderedHTMLCommon table",
  ".jp-OutputArea-output", ".jp-OutputArea-output pre", "p:has(> img)",
];

function reachable() {
  document.querySelectorAll(BOXES.join()).forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
}
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
document.querySelectorAll(".md-search").forEach((search) => search.setAttribute("aria-label", "Search"));
