"use strict";
// A slider sets the distance up to which points are joined: lines are there from birth to death.
function mechsteerTrajectory(id, reach) {
  const figure = document.getElementById(id), slider = figure.querySelector("input");
  const said = figure.querySelector("output"), most = Number(slider.max);
  const panels = Array.from(figure.querySelectorAll(".panel"), (panel) => ({
    lines: Array.from(panel.querySelectorAll("svg:not(.bars) line")),
    bars: Array.from(panel.querySelectorAll(".bars line[data-birth]")),
    cursor: panel.querySelector(".cursor"), width: panel.querySelector("svg").viewBox.baseVal.width,
    count: panel.querySelector(".count"), whole: panel.querySelector(".count").textContent,
  }));
  const lives = (line, at) => Number(line.dataset.birth) <= at && at < Number(line.dataset.death);
  const many = (n, what) => n + " " + what + (n === 1 ? "" : "s");
  function draw() {
    const at = (Number(slider.value) / most) * reach, all = Number(slider.value) === most;
    said.textContent = at.toPrecision(3);
    panels.forEach(({ lines, bars, cursor, width, count, whole }) => {
      lines.forEach((line) => line.classList.toggle("gone", !(all || lives(line, at))));
      cursor.setAttribute("x1", (width * at) / reach);
      cursor.setAttribute("x2", (width * at) / reach);
      const living = bars.filter((bar) => lives(bar, at));
      const loops = living.filter((bar) => bar.classList[0] !== "tree").length;
      count.textContent = all ? whole : many(1 + living.length - loops, "component") + ", " + many(loops, "drawn loop");
    });
  }
  slider.addEventListener("input", draw);
}
