"use strict";
(() => {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; });

  const table = document.getElementById("ladder");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({
    row,
    text: row.textContent.toLowerCase(),
    stopped: row.querySelector(".pill.no") !== null,
  }));
  const filter = document.getElementById("filter");
  const answer = document.getElementById("answer");
  const shown = document.getElementById("shown");
  document.getElementById("tools").hidden = false;

  const refresh = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, text, stopped } of rows) {
      const wanted = !answer.value || stopped === (answer.value === "no");
      row.hidden = !(wanted && words.every((word) => text.includes(word)));
      if (!row.hidden) count += 1;
    }
    shown.textContent = `${count} of ${rows.length} weights`;
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
