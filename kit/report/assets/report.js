"use strict";
for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table"), body = table.tBodies[0], rows = [...body.rows];
  if (rows.length < 2) continue;
  const heads = [...table.tHead.querySelectorAll("th:not(.group)")];
  const cell = (row, at) => row.cells[at].textContent.trim();
  const columns = new Map();
  const grid = [[], []];
  [...table.tHead.rows].forEach((line, depth) => {
    let at = 0;
    for (const head of line.cells) {
      while (grid[depth][at]) at += 1;
      for (let x = 0; x < head.colSpan; x += 1) for (let y = 0; y < head.rowSpan; y += 1) if (grid[depth + y]) grid[depth + y][at + x] = true;
      columns.set(head, at);
      at += head.colSpan;
    }
  });
  for (const head of heads) {
    const text = head.textContent, button = document.createElement("button");
    if (!text) continue;
    button.type = "button";
    button.textContent = text;
    button.title = box.dataset.sort;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending", at = columns.get(head);
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (one, two) => {
        const a = cell(one, at), b = cell(two, at), x = parseFloat(a), y = parseFloat(b);
        const numeric = Number.isFinite(x) && Number.isFinite(y);
        if (numeric) return x - y;
        if (Number.isFinite(x)) return -1;
        if (Number.isFinite(y)) return 1;
        return a.localeCompare(b);
      };
      rows.sort((one, two) => (up ? order(one, two) : order(two, one)));
      body.append(...rows);
    });
  }
  if (box.dataset.filter) {
    const label = document.createElement("label"), input = document.createElement("input");
    label.className = "filter";
    input.type = "search";
    label.append(box.dataset.filter, input);
    box.prepend(label);
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }
}
