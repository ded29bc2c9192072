"use strict";
// The bars of one figure show the values of the token that is pointed at, or chosen by keys; else those of `mean`.
function mechsteerTokenBars(id, rows, full) {
  const figure = document.getElementById(id);
  const field = figure.querySelector(".tokens"), said = figure.querySelector(".said");
  const tokens = Array.from(field.children), known = rows.flatMap((row, i) => (row ? [i] : []));
  const bars = Array.from(figure.querySelectorAll(".bar"), (bar) => ({
    line: bar.querySelector("i"), value: bar.querySelector(".value"),
  }));
  const mean = {
    said: said.textContent,
    bars: bars.map(({ line, value }) => [line.style.width, line.className, value.textContent]),
  };
  let kept = null;
  function draw(i) {
    tokens.forEach((token, n) => token.classList.toggle("chosen", n === i));
    said.textContent = i === null ? mean.said : "Token " + (i + 1) + ": " + tokens[i].textContent.trim();
    bars.forEach(({ line, value }, k) => {
      const one = i === null ? null : rows[i][k];
      line.style.width = one === null ? mean.bars[k][0] : (100 * Math.min(1, Math.abs(one) / full)).toFixed(2) + "%";
      line.className = one === null ? mean.bars[k][1] : one < 0 ? "negative" : "";
      value.textContent = one === null ? mean.bars[k][2] : one.toFixed(3).replace("-", "\u2212");
    });
  }
  function keep(i) {
    kept = i;
    draw(kept);
  }
  field.tabIndex = 0;
  known.forEach((i) => {
    tokens[i].addEventListener("mouseenter", () => draw(i));
    tokens[i].addEventListener("click", () => keep(i));
  });
  field.addEventListener("mouseleave", () => draw(kept));
  field.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && known.length) {
      const at = kept === null ? (step > 0 ? -1 : known.length) : known.indexOf(kept);
      keep(known[Math.max(0, Math.min(known.length - 1, at + step))]);
    } else if (event.key === "Escape") {
      keep(null);
    } else {
      return;
    }
    event.preventDefault();
  });
}
