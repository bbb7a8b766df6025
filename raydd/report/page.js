"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;
  const tip = document.getElementById("tip");

  // Themes: what the system prefers, until the button says otherwise.
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const store = (action) => { try { return action(localStorage); } catch { return null; } };
  const nameTheme = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.title = `Use the ${dark() ? "light" : "dark"} colours`; };
  const stored = store((storage) => storage.getItem("raydd-theme"));
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    store((storage) => storage.setItem("raydd-theme", root.dataset.theme));
    nameTheme();
  });
  system.addEventListener("change", nameTheme);
  theme.hidden = false;
  nameTheme();

  // Tables: a press on a title sorts by it, upwards first; what has no number stands last either way.
  const keyOf = (cell, numeric) => {
    const value = cell.dataset.value ?? cell.firstChild?.textContent.trim() ?? "";
    return numeric ? Number(value || NaN) : value;
  };
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const numeric = head.classList.contains("number");
      const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row.cells[column], numeric) }));
      const last = ({ key }) => Number(typeof key === "number" && Number.isNaN(key));
      rows.sort((a, b) => last(a) - last(b) || (last(a) ? 0 : sign * order(a.key, b.key)));
      table.tBodies[0].append(...rows.map(({ row }) => row));
    }));
  }

  // The tooltip: one for all, beside what is pointed at or has the focus.
  const place = (left, top, bottom) => {
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(left - width / 2, innerWidth - width - 8))}px`;
    tip.style.top = `${top - height - 8 >= 8 ? top - height - 8 : Math.min(bottom + 8, innerHeight - height - 8)}px`;
  };
  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  const line = (...parts) => { const span = element("span", ""); span.append(...parts); return span; };
  const hide = () => { tip.hidden = true; };
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  const showLabel = (cell) => {
    const [title, ...words] = cell.getAttribute("aria-label").split("; ");
    const shares = JSON.parse(cell.dataset.label ?? "[]");
    const meter = (share) =>
      Object.assign(document.createElement("meter"), { max: share.endsWith("%") ? 100 : 1, value: Math.max(0, parseFloat(share)) });
    const lines = shares.map(([name, share]) => line(element("span", name), element("span", share), meter(share)));
    const range = cell.closest(".viewer").querySelector("input[type=range]");
    const early = range && range.value !== range.max && words.length ? [element("i", "label of the result")] : [];
    tip.replaceChildren(element("b", title), ...(lines.length ? lines : words.map((text) => element("span", text))), ...early);
    const box = cell.getBoundingClientRect();
    place(box.left + box.width / 2, box.top, box.bottom);
  };

  // Synthetic images: one of them is reached by Tab, the others by the arrow keys.
  for (const list of all(".synthetic")) {
    const rows = all("li", list).map((line) => all(".cell", line));
    const cells = rows.flat();
    const go = (cell) => {
      if (!cell) return;
      for (const other of cells) other.setAttribute("tabindex", other === cell ? "0" : "-1");
      cell.focus();
    };
    cells.forEach((cell, index) => cell.setAttribute("tabindex", index ? "-1" : "0"));
    for (const cell of cells) {
      for (const type of ["pointerenter", "focus"]) cell.addEventListener(type, () => showLabel(cell));
      for (const type of ["pointerleave", "blur"]) cell.addEventListener(type, hide);
      cell.addEventListener("click", () => go(cell));
      cell.addEventListener("keydown", (event) => {
        const row = rows.findIndex((line) => line.includes(cell));
        const column = rows[row].indexOf(cell);
        const beside = (line) => line && (line[column] ?? line.at(-1));
        const index = cells.indexOf(cell);
        const target = { ArrowRight: cells[index + 1], ArrowLeft: cells[index - 1], ArrowDown: beside(rows[row + 1]), ArrowUp: beside(rows[row - 1]), Home: cells[0], End: cells.at(-1) }[event.key];
        if (target) { event.preventDefault(); go(target); }
      });
    }
  }

  // The slider changes the one picture of which every image shows a part.
  for (const slider of all(".slider")) {
    const source = slider.querySelector("script");
    const frames = JSON.parse(source.textContent);
    const image = document.getElementById(source.dataset.frame);
    const [range, output, play] = ["input", "output", ".play"].map((selector) => slider.querySelector(selector));
    const still = matchMedia("(prefers-reduced-motion: reduce)");
    let timer = null;
    const show = () => {
      const frame = frames[Number(range.value)];
      image.setAttribute("href", frame.address);
      output.textContent = frame.words;
      range.setAttribute("aria-valuetext", frame.words);
    };
    const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
    range.addEventListener("input", () => { stop(); show(); });
    play.hidden = false;
    play.addEventListener("click", () => {
      if (timer !== null || still.matches) { stop(); return; }
      if (range.value === range.max) range.value = 0;
      show();
      play.textContent = "Pause";
      timer = setInterval(() => {
        range.stepUp();
        show();
        if (range.value === range.max) stop();
      }, 350);
    });
    still.addEventListener("change", stop);
    matchMedia("print").addEventListener("change", (event) => { // on paper stands the last step
      stop();
      if (event.matches) image.setAttribute("href", frames.at(-1).address); else show();
    });
    range.value = range.max;
    show();
  }

  // Charts: the values of a panel's curves at the pointer.
  for (const chart of all(".chart svg")) {
    const panels = all("[data-axes]", chart).map((panel) => {
      const [low, high, start, end, bottom, top, floor, ceiling, log] = panel.dataset.axes.split(" ").map(Number);
      const curves = all("g.curve", panel).map((group) => ({
        name: group.querySelector("title").textContent,
        points: [
          ...all(":scope > path", group).flatMap((path) => path.getAttribute("d").split(/[ML]/).filter((pair) => pair.trim()).map((pair) => pair.trim().split(/\s+/).map(Number))),
          ...all("use", group).map((mark) => [Number(mark.getAttribute("x")), Number(mark.getAttribute("y"))]),
        ],
      })).filter((curve) => curve.points.length);
      const toX = (at) => low + ((at - start) / (end - start)) * (high - low);
      const toY = (at) => {
        const share = (at - floor) / (ceiling - floor);
        return log ? bottom * (top / bottom) ** share : bottom + share * (top - bottom);
      };
      return { low, high, start, end, floor, ceiling, curves, toX, toY };
    }).filter((panel) => panel.curves.length);
    if (!panels.length) continue;
    chart.setAttribute("aria-label", chart.querySelector(":scope > title").textContent);
    for (const title of all(".curve > title, :scope > title", chart)) title.remove(); // the tooltip says it
    const short = (value) => String(Math.abs(value) < 1e4 ? Number(value.toPrecision(4)) : Math.round(value));
    const reader = document.createElementNS("http://www.w3.org/2000/svg", "line");
    reader.setAttribute("class", "reader");
    const leave = () => { reader.remove(); hide(); };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect(), scale = chart.viewBox.baseVal.width / box.width;
      const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      const panel = panels.find(({ start, end, floor, ceiling }) => x >= start && x <= end && y >= ceiling && y <= floor);
      if (!panel) { leave(); return; }
      const closest = (points) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
      const nearest = panel.curves.map(({ name, points }) => ({ name, point: closest(points) }));
      const middle = closest(nearest.map(({ point }) => point))[0];
      for (const [name, value] of [["x1", middle], ["x2", middle], ["y1", panel.ceiling], ["y2", panel.floor]]) reader.setAttribute(name, value);
      chart.append(reader);
      const lines = nearest.filter(({ point }) => Math.abs(point[0] - middle) < 6)
        .map(({ name, point }) => line(element("span", name), element("span", short(panel.toY(point[1])))));
      const digits = Math.max(0, 3 - Math.floor(Math.log10(panel.high - panel.low)));
      tip.replaceChildren(element("b", `at ${Number(panel.toX(middle).toFixed(digits))}`), ...lines);
      place(event.clientX, box.top + panel.ceiling / scale, box.bottom);
    });
    chart.addEventListener("pointerleave", leave);
  }

  // Commands and files: a button that copies them.
  for (const block of all(".code")) {
    const button = element("button", "Copy");
    button.type = "button";
    button.addEventListener("click", async () => {
      const text = block.querySelector("code");
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  }
})();
