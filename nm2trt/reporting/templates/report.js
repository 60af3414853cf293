"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; });

  // A method is shown or hidden on every curve at once.
  for (const item of document.querySelectorAll(".series li")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...item.childNodes);
    button.setAttribute("aria-pressed", "true");
    item.append(button);
    button.addEventListener("click", () => {
      const method = item.dataset.method;
      const shown = button.getAttribute("aria-pressed") !== "true";
      for (const other of document.querySelectorAll(`.series li[data-method="${method}"] button`)) other.setAttribute("aria-pressed", String(shown));
      for (const drawn of document.querySelectorAll(`.curve .m${method}`)) drawn.classList.toggle("off", !shown);
    });
  }

  const show = (value, share) => share ? `${Number((100 * value).toPrecision(4))} %` : String(Number(value.toPrecision(4)));
  for (const chart of document.querySelectorAll("svg.curve")) {
    const pair = (name) => chart.dataset[name].split(" ").map(Number);
    const [left, right] = pair("x"), [low, high] = pair("y"), share = chart.dataset.share === "1";
    const lines = Array.from(chart.querySelectorAll("polyline"), (line) => ({
      line, name: line.dataset.name, points: line.getAttribute("points").split(" ").map((point) => point.split(",").map(Number)),
    }));
    if (!lines.length) continue;
    const cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cross.setAttribute("class", "cross off");
    cross.setAttribute("y1", "0%");
    cross.setAttribute("y2", "100%");
    chart.append(cross);
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    chart.parentElement.append(tip);
    const leave = () => { tip.hidden = true; cross.classList.add("off"); };
    chart.addEventListener("pointerleave", leave);
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const at = 100 * Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
      const near = lines.filter(({ line }) => !line.classList.contains("off")).map(({ name, points }) =>
        [name, points.reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best)]);
      if (!near.length) return leave();
      const x = near.reduce((best, [, point]) => Math.abs(point[0] - at) < Math.abs(best - at) ? point[0] : best, near[0][1][0]);
      const step = left + (right - left) * x / 100;
      tip.replaceChildren(...[`step ${Number(step.toPrecision(6))}`, ...near.map(([name, point]) => `${name}: ${show(high - (high - low) * point[1] / 100, share)}`)].map((text) => {
        const line = document.createElement("div");
        line.textContent = text;
        return line;
      }));
      cross.setAttribute("x1", `${x}%`);
      cross.setAttribute("x2", `${x}%`);
      cross.classList.remove("off");
      tip.hidden = false;
      const home = chart.parentElement.getBoundingClientRect();
      const place = box.left - home.left + box.width * x / 100 + 12;
      tip.style.left = `${Math.max(0, Math.min(place, home.width - tip.offsetWidth))}px`;
      tip.style.top = `${box.top - home.top + 8}px`;
    });
  }

  const table = document.getElementById("ladder");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({
    row,
    weights: Number(row.dataset.count),
    text: row.textContent.toLowerCase(),
    stopped: row.querySelector(".pill.no") !== null,
  }));
  const filter = document.getElementById("filter");
  const answer = document.getElementById("answer");
  const shown = document.getElementById("shown");
  document.getElementById("tools").hidden = false;

  const all = rows.reduce((sum, { weights }) => sum + weights, 0);
  const refresh = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, weights, text, stopped } of rows) {
      const wanted = !answer.value || stopped === (answer.value === "no");
      row.hidden = !(wanted && words.every((word) => text.includes(word)));
      if (!row.hidden) count += weights;
    }
    shown.textContent = `${count} of ${all} weights`;
  };
  filter.addEventListener("input", refresh);
  answer.addEventListener("change", refresh);
  refresh();

  const collator = new Intl.Collator(undefined, { numeric: true });
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.parentElement;
    const column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = ({ row }) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const number = rows.every(({ row }) => row.cells[column].dataset.value !== undefined);
    const order = number ? (a, b) => a[1] - b[1] : (a, b) => collator.compare(a[1], b[1]);
    const sorted = rows.map((entry) => [entry.row, key(entry)]).sort(order);
    if (down) sorted.reverse();
    body.append(...sorted.map(([row]) => row));
  });
})();
