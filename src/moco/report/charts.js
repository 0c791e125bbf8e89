// Charts that can be asked: pointer, finger or arrow keys show the values at a place of all charts
// with the same axis; buttons hide runs. Without this script the charts are pictures.
(() => {
  "use strict";
  const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [360, 200, 44, 10, 10, 24]; // as in charts.py
  const given = JSON.parse(document.querySelector("script#curves-data").textContent);
  const namespace = document.querySelector("svg").namespaceURI;
  const hidden = new Set();

  const charts = given.charts.map((values) => {
    const figure = document.querySelector(`figure[data-chart="${values.key}"]`);
    return {
      ...values,
      figure,
      svg: figure.querySelector("svg"),
      cursor: figure.querySelector(".cursor"),
      at: figure.querySelector(".at"),
      items: [...figure.querySelectorAll(".reading li")],
    };
  });

  // four figures, as charts.py has it
  function shown(value, unit) {
    if (unit === "%") return `${(100 * value).toFixed(1)} %`;
    if (unit === "GB") return `${(value / 1e9).toFixed(2)} GB`;
    const size = Math.abs(value);
    if (value === 0 || (size >= 1e-3 && size < 1e6)) {
      if (size >= 1000) return Math.round(value).toLocaleString("en-US");
      return String(Number(value.toPrecision(4)));
    }
    return value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  }

  // the place of the value in a rising list that is nearest to it
  function nearest(list, value) {
    let [low, high] = [0, list.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (list[middle] < value) low = middle;
      else high = middle;
    }
    return value - list[low] <= list[high] - value ? low : high;
  }

  function place(chart, x, y) {
    const [left, right, low, high] = chart.box;
    return [
      LEFT + ((x - left) / (right - left)) * (WIDTH - LEFT - RIGHT),
      TOP + ((high - y) / (high - low)) * (HEIGHT - TOP - BOTTOM),
    ];
  }

  function drawn(name, attributes) {
    const element = document.createElementNS(namespace, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  function inWords(chart, x) {
    const epoch = chart.axis === "step" && given.epochs ? ` (epoch ${(x / given.epochs).toFixed(1)})` : "";
    return `${chart.axis} ${shown(chart.axis === "epoch" ? Number(x.toFixed(2)) : Math.round(x), "")}${epoch}`;
  }

  // show a chart's values at x; null: those at the end, and no cursor
  function show(chart, x) {
    chart.cursor.replaceChildren();
    const end = Math.max(...chart.lines.map((line) => line.at[line.at.length - 1]));
    const told = [];
    chart.at.textContent = inWords(chart, x ?? end);
    if (x !== null) {
      const [across] = place(chart, x, 0);
      chart.cursor.append(drawn("line", { x1: across, x2: across, y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    chart.lines.forEach((line, number) => {
      const item = chart.items[number];
      const last = line.at.length - 1;
      const reach = (line.at[last] - line.at[0]) / Math.max(1, last) + 1e-9;
      const inside = x === null || (x >= line.at[0] - reach && x <= line.at[last] + reach);
      const here = x === null ? last : nearest(line.at, x);
      const value = inside ? shown(line.mean[here], chart.unit) : "–";
      item.querySelector("b").textContent = value;
      if (hidden.has(line.run)) return;
      told.push(`${line.name} ${value}`);
      if (x !== null && inside) {
        const [cx, cy] = place(chart, line.at[here], line.mean[here]);
        const circle = drawn("circle", { cx, cy, r: 3.5 });
        circle.setAttribute("class", item.classList[0]);
        chart.cursor.append(circle);
      }
    });
    chart.svg.setAttribute("aria-valuetext", `${chart.at.textContent}: ${told.join(", ")}`);
    chart.svg.setAttribute("aria-valuenow", String(Math.round(x ?? end)));
  }

  function showAll(axis, x) {
    for (const chart of charts) if (chart.axis === axis) show(chart, x);
  }

  function pointed(chart, event) {
    const box = chart.svg.getBoundingClientRect();
    const [left, right] = chart.box;
    const across = ((event.clientX - box.left) / box.width) * WIDTH;
    const share = (across - LEFT) / (WIDTH - LEFT - RIGHT);
    return left + Math.min(1, Math.max(0, share)) * (right - left);
  }

  function stepped(chart, event) {
    const line = chart.lines.find((each) => !hidden.has(each.run)) || chart.lines[0];
    const last = line.at.length - 1;
    const here = chart.here ?? last;
    const far = event.shiftKey ? 10 : 1;
    switch (event.key) {
      case "ArrowLeft":
      case "ArrowDown":
        return Math.max(0, here - far);
      case "ArrowRight":
      case "ArrowUp":
        return Math.min(last, here + far);
      case "Home":
        return 0;
      case "End":
        return last;
      default:
        return null;
    }
  }

  for (const chart of charts) {
    const { svg, axis } = chart;
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("role", "slider");
    svg.setAttribute("aria-labelledby", `title-${chart.key}`);
    svg.setAttribute("aria-valuemin", String(Math.round(chart.box[0])));
    svg.setAttribute("aria-valuemax", String(Math.round(chart.box[1])));
    const follow = (event) => showAll(axis, pointed(chart, event));
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") showAll(axis, null);
    });
    svg.addEventListener("blur", () => {
      chart.here = undefined;
      showAll(axis, null);
    });
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        chart.here = undefined;
        showAll(axis, null);
        return;
      }
      const here = stepped(chart, event);
      if (here === null) return;
      event.preventDefault();
      chart.here = here;
      const line = chart.lines.find((each) => !hidden.has(each.run)) || chart.lines[0];
      showAll(axis, line.at[here]);
    });
    show(chart, null);
  }

  for (const button of document.querySelectorAll("button[data-toggle]")) {
    button.addEventListener("click", () => {
      const run = Number(button.dataset.toggle);
      const isShown = !hidden.delete(run);
      if (isShown) hidden.add(run);
      button.setAttribute("aria-pressed", String(!isShown));
      for (const part of document.querySelectorAll(`.chart [data-run="${run}"]`)) {
        part.classList.toggle("off", isShown);
      }
    });
  }

  // what is folded away is printed
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
})();
