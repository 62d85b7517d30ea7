// Boxes that scroll sideways can be reached by keyboard.
"use strict";

function reachable() {
  document.querySelectorAll(".md-typeset__scrollwrap, .formula, .jp-RenderedHTMLCommon table, .jp-OutputArea-output pre").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
}
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
